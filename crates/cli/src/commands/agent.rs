//! `espalier agent`: the edge runtime.

use std::path::PathBuf;

use crate::exit::usage;

/// Run the pipelines of a configuration on this device: sources, models, and where insights go.
#[derive(clap::Args)]
#[command(after_help = "\
The reference of the configuration is docs/agent.md. SIGHUP reads it again; SIGTERM ends the agent. `espalier-agent` is the same \
as a small program of its own.

Examples:
  espalier agent --config agent.toml --check
  espalier agent --config agent.toml")]
pub(crate) struct Args {
    /// What to run.
    #[arg(long, value_name = "FILE.toml")]
    config: PathBuf,
    /// Open every package, replay its golden samples, look for the sources, and end.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let result = match args.check {
        true => {
            espalier_agent::check(&args.config).map(|lines| lines.iter().for_each(|line| println!("{line}")))
        }
        false => espalier_agent::run(&args.config),
    };
    result.map_err(|error| if error.is_usage() { usage(error) } else { error.into() })
}
