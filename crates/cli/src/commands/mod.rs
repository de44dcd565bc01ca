//! One file for each command.

mod agent;
mod benchmark;
mod completions;
mod compress;
mod data;
mod demo;
mod explain;
mod export;
mod import;
mod inspect;
mod man;
mod predict;
mod run;
mod train;
mod val;

/// What to do.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Train(Box<train::Args>),
    Val(val::Args),
    Compress(compress::Args),
    Data(data::Args),
    Predict(predict::Args),
    Explain(explain::Args),
    Run(run::Args),
    Import(import::Args),
    Export(export::Args),
    Inspect(inspect::Args),
    Benchmark(benchmark::Args),
    Agent(agent::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            Command::Train(args) => train::run(args),
            Command::Val(args) => val::run(args),
            Command::Compress(args) => compress::run(args),
            Command::Data(args) => data::run(args),
            Command::Predict(args) => predict::run(args),
            Command::Explain(args) => explain::run(args),
            Command::Run(args) => run::run(args),
            Command::Import(args) => import::run(args),
            Command::Export(args) => export::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Benchmark(args) => benchmark::run(args),
            Command::Agent(args) => agent::run(args),
            Command::Demo(args) => demo::run(args),
            Command::Completions(args) => completions::run(args),
            Command::Man(args) => man::run(args),
        }
    }
}
