//! How a command ends: 0 done, 1 failed, 2 wrong usage (also a file or split that is not there), 3 a goal was not met.

use std::process::ExitCode;

use crate::print;

/// A failure whose status is not 1.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Wrong usage: status 2.
    Usage(String),
    /// A goal was not met: status 3. The results are out already.
    Missed(String),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Usage(text) | Ending::Missed(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Ending {}

/// An error that ends with status 2.
pub(crate) fn usage(text: impl std::fmt::Display) -> anyhow::Error {
    Ending::Usage(text.to_string()).into()
}

/// Says what went wrong on stderr, in one sentence, and gives the status.
pub(crate) fn status(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("espalier: {}", print::line(&sentence(&error)));
    match error.downcast_ref() {
        Some(Ending::Usage(_)) => ExitCode::from(2),
        Some(Ending::Missed(_)) => ExitCode::from(3),
        None => ExitCode::from(1),
    }
}

/// The error with its causes; a cause that its error tells already is not told twice.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The reader of our output has gone: nothing is wrong.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}
