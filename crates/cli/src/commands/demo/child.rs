//! The agent as a process of its own, which ends when whoever started it does.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{print, signals};

/// How often it is looked whether the end is wanted.
const LOOK: Duration = Duration::from_millis(50);
/// For the agent to end when it is asked to.
const FAREWELL: Duration = Duration::from_secs(10);

/// A line of the agent.
pub(super) enum Line {
    /// An insight, on stdout.
    Insight(String),
    /// An event, on stderr.
    Event(String),
}

/// An agent that runs. Dropping it ends it, whatever has happened.
pub(super) struct Agent {
    child: Child,
    lines: Receiver<Line>,
    /// What it said last, for who wants to know why it failed.
    last: String,
    stop: Arc<AtomicBool>,
}

impl Agent {
    /// Starts it with the configuration at `config`. Ctrl-C and SIGTERM are heard from then on.
    pub(super) fn start(config: &Path) -> anyhow::Result<Agent> {
        let stop = signals::stop()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["agent", "--config"]).arg(config);
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("the agent does not start")?;
        let (sender, lines) = channel();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let agent = Agent { child, lines, last: String::new(), stop };
        read(out, Line::Insight, sender.clone())?;
        read(err, Line::Event, sender)?;
        Ok(agent)
    }

    /// Hands each line to `hear` until `deadline`, or until `hear` has heard enough; whether the agent is still there.
    ///
    /// # Errors
    /// Somebody wants the end.
    pub(super) fn listen(
        &mut self,
        deadline: Option<Instant>,
        mut hear: impl FnMut(Line) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        while deadline.is_none_or(|deadline| Instant::now() < deadline) {
            if self.stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => {
                    if let Line::Event(text) = &line {
                        self.last.clone_from(text);
                    }
                    if hear(line)? {
                        return Ok(true);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Has it read its configuration again.
    pub(super) fn reload(&self) {
        self.signal(false);
    }

    /// Asks it to end, hears what it still says, and waits for it.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn end(&mut self, hear: impl FnMut(Line) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        self.signal(true);
        self.listen(Some(Instant::now() + FAREWELL), hear)?;
        self.wait()
    }

    /// Waits for an agent that has ended by itself.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn wait(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if begun.elapsed() > FAREWELL => bail!("the agent does not end"),
                None => std::thread::sleep(LOOK),
            }
        };
        match status.success() {
            true => Ok(()),
            false => bail!("the agent failed ({status}): {}", print::line(&self.last)),
        }
    }

    #[cfg(unix)]
    fn signal(&self, is_end: bool) {
        use rustix::process::{Pid, Signal, kill_process};
        let signal = if is_end { Signal::TERM } else { Signal::HUP };
        // Where it has ended already, that is noticed where it is waited for.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    #[cfg(not(unix))]
    fn signal(&self, _is_end: bool) {}
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads the lines of a pipe in a thread, until nobody writes to it any more.
fn read(
    pipe: Option<impl Read + Send + 'static>,
    line: fn(String) -> Line,
    sender: Sender<Line>,
) -> anyhow::Result<()> {
    let lines = BufReader::new(pipe.context("a pipe")?).lines();
    let forward = move || {
        let _ = lines.map_while(Result::ok).try_for_each(|text| sender.send(line(text)));
    };
    std::thread::Builder::new().name("agent's lines".into()).spawn(forward)?;
    Ok(())
}
