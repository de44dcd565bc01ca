//! `espalier-agent`: the edge runtime by itself.

use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
Run the pipelines of a configuration: sources, models, and where insights go.

Usage: espalier-agent --config FILE.toml [--check]

  --config FILE.toml  What to run; docs/agent.md is the reference of its keys
  --check             Open every package, replay its golden samples, look for the sources, and end
  --help, --version

SIGHUP reads the configuration again; SIGTERM ends the agent. Exit status: 0 done, 1 failed, 2 wrong usage or a wrong
configuration.
";

/// What the command line asks for.
#[derive(Default)]
struct Args {
    config: Option<PathBuf>,
    check: bool,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return usage(&error),
    };
    let Some(config) = args.config else { return usage("--config FILE.toml is needed") };
    espalier_agent::main(&config, args.check)
}

/// Nothing where the answer is out already.
fn parse(mut args: impl Iterator<Item = std::ffi::OsString>) -> Result<Option<Args>, String> {
    let mut parsed = Args::default();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--config") => parsed.config = Some(args.next().ok_or("--config needs a file")?.into()),
            Some("--check") => parsed.check = true,
            Some("--help" | "-h") => {
                print!("{HELP}");
                return Ok(None);
            }
            Some("--version" | "-V") => {
                println!("espalier-agent {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            Some(text) if text.starts_with("--config=") => {
                parsed.config = Some(text["--config=".len()..].into())
            }
            _ => {
                return Err(format!(
                    "{}: there are --config FILE.toml, --check, --help and --version",
                    arg.display()
                ));
            }
        }
    }
    Ok(Some(parsed))
}

fn usage(text: &str) -> ExitCode {
    eprintln!("espalier-agent: {text}");
    ExitCode::from(2)
}
