//! `espalier man`: the manual, made from the definition that parses and helps.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use espalier_graph::files;

use crate::exit::usage;

/// Print a page of the manual, or write all pages into a folder.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  espalier man | man -l -
  espalier man train | man -l -
  espalier man --out ~/.local/share/man/man1                    then: man espalier-train")]
pub(crate) struct Args {
    /// The command whose page it is; default: the page of `espalier` itself.
    #[arg(conflicts_with = "out")]
    command: Option<String>,
    /// Write the pages of all commands into this folder; made if need be.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut root = crate::Cli::command();
    root.build();
    match (&args.out, &args.command) {
        (Some(folder), _) => write_all(folder, &root),
        (None, None) => print(&root),
        (None, Some(name)) => {
            let command = root.find_subcommand(name);
            print(command.ok_or_else(|| usage(format!("there is no command `{name}`; see `espalier help`")))?)
        }
    }
}

fn print(command: &Command) -> anyhow::Result<()> {
    Ok(std::io::stdout().lock().write_all(&page(command)?)?)
}

fn write_all(folder: &Path, root: &Command) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let commands = root.get_subcommands().filter(|command| command.get_name() != "help");
    for command in std::iter::once(root).chain(commands) {
        let page = page(command)?;
        files::write_atomic(folder.join(format!("{}.1", name(command))), |file| file.write_all(&page))?;
    }
    Ok(())
}

/// `espalier`, `espalier-train`, ...
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}
