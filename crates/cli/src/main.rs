//! The one command.

mod commands;
mod compute;
mod config;
mod exit;
mod foreign;
mod made_up;
mod memory;
mod open;
mod print;
mod progress;
mod quantity;
mod signals;

use std::process::ExitCode;

use clap::Parser;

/// Train, run and measure neural networks: from a folder of labelled pictures to a package that runs on small devices.
#[derive(Parser)]
#[command(
    version,
    args_override_self = true,
    after_help = "\
Exit status: 0 done, 1 failed, 2 wrong usage, 3 a goal was not met.

First steps:
  espalier demo                        the whole cycle on built-in handwritten digits
  espalier train path/to/folder        train on train|val/CLASS/*.jpg, or CLASS/*.jpg
  espalier predict runs/train/best.espalier picture.jpg"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: commands::Command,
    #[command(flatten)]
    everywhere: Everywhere,
}

/// Flags of every command. [`config::expand`] has turned them into other flags when the parser runs; they stand here for
/// help, completions and the manual.
#[derive(clap::Args)]
#[command(next_help_heading = "Of every command")]
struct Everywhere {
    /// Take flags from this file (key = value); flags on the command line win.
    #[arg(long, global = true, value_name = "FILE.toml")]
    config: Option<std::path::PathBuf>,
    /// Set a flag; wins over the command line and --config.
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    let args = match config::expand(std::env::args_os().collect()) {
        Ok(args) => args,
        Err(error) => return exit::status(Err(exit::usage(format!("{error:#}")))),
    };
    // Wrong flags end with status 2, help and version with 0.
    let cli = Cli::try_parse_from(args).unwrap_or_else(|error| error.exit());
    exit::status(cli.command.run())
}
