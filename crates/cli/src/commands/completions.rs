//! `espalier completions`: what a shell needs to complete commands and flags.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// Print the completions of a shell: commands, flags and their values.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  espalier completions bash > ~/.local/share/bash-completion/completions/espalier
  espalier completions zsh > ~/.zfunc/_espalier                 with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc
  espalier completions fish > ~/.config/fish/completions/espalier.fish")]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut crate::Cli::command(), "espalier", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
