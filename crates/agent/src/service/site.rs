//! The status page, the pictures and the metrics of an agent.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::Pipelines;
use crate::figures::{Figure, exposition};
use crate::machine::Machine;
use crate::pipeline::Shared;
use crate::show::{HEARTBEAT, HTML, Reply, Site, round, status};
use crate::sink::{SinkCounters, Sinks};

/// As Prometheus wants it.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What an agent shows.
pub(super) struct Overview {
    device: String,
    pipelines: Pipelines,
    sinks: Arc<Sinks>,
    machine: Mutex<Machine>,
}

impl Overview {
    pub(super) fn new(device: &str, pipelines: Pipelines, sinks: Arc<Sinks>, machine: Machine) -> Overview {
        Overview { device: device.into(), pipelines, sinks, machine: Mutex::new(machine) }
    }

    /// To be called about once a second.
    pub(super) fn tick(&self) {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner).look();
        self.pipelines().iter().for_each(|pipeline| pipeline.tick());
    }

    fn pipelines(&self) -> Vec<Arc<Shared>> {
        self.pipelines.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn machine(&self) -> Vec<Figure> {
        Figure::of_machine(&self.machine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn metrics(&self) -> String {
        let pipelines = self.pipelines();
        let each = pipelines.iter().map(|pipeline| (vec![("pipeline", pipeline.name())], pipeline.figures()));
        let sinks = self.sinks.counters();
        let of_sinks = sinks.iter().map(|sink| (vec![("sink", sink.name.as_str())], Figure::of_sink(sink)));
        exposition(&each.chain(of_sinks).chain([(Vec::new(), self.machine())]).collect::<Vec<_>>())
    }

    fn figures(&self) -> Value {
        let named = |figures: Vec<Figure>| -> Map<String, Value> {
            figures.iter().map(|figure| (figure.key(), round(figure.value).into())).collect()
        };
        let each = |pipeline: &Arc<Shared>| {
            let mut value = pipeline.board.figures();
            value["name"] = pipeline.name().into();
            value["counters"] = named(pipeline.figures()).into();
            value
        };
        let sink = |sink: &SinkCounters| {
            let counters = named(Figure::of_sink(sink));
            json!({"name": sink.name, "type": sink.kind, "state": sink.state, "counters": counters})
        };
        json!({
            "device": self.device,
            "sinks": self.sinks.counters().iter().map(sink).collect::<Vec<_>>(),
            "machine": named(self.machine()),
            "pipelines": self.pipelines().iter().map(each).collect::<Vec<_>>(),
        })
    }
}

impl Site for Arc<Overview> {
    fn reply(&self, path: &str) -> Option<Reply> {
        match path {
            "/" => {
                let pipelines = self.pipelines();
                let each = pipelines.iter().map(|p| (p.name(), &*p.board));
                Some(Reply::Text(HTML, status(&self.device, each)))
            }
            "/metrics" => Some(Reply::Text(METRICS, self.metrics())),
            "/figures" => {
                let (overview, mut is_first) = (self.clone(), true);
                Some(Reply::Figures(Box::new(move || {
                    if !std::mem::take(&mut is_first) {
                        std::thread::sleep(HEARTBEAT);
                    }
                    overview.figures()
                })))
            }
            _ => {
                let (name, what) = path.strip_prefix('/')?.split_once('/')?;
                let board = self.pipelines().iter().find(|p| p.name() == name)?.board.clone();
                match what {
                    "picture.jpg" => Some(Reply::Picture(board)),
                    "picture.mjpeg" => Some(Reply::Pictures(board)),
                    _ => None,
                }
            }
        }
    }

    fn paths(&self) -> &'static str {
        "There is /, /metrics, /figures, and /NAME/picture.jpg and /NAME/picture.mjpeg of each pipeline.\n"
    }
}
