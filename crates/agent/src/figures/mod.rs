//! What is counted, by the names that users of this field know, for `/metrics`, the status page and insights alike.

mod exposition;
mod trend;

use std::time::Duration;

use crate::machine::{Machine, resident_bytes};
use crate::pipeline::TellFigures;
use crate::show::Health;
use crate::sink::SinkCounters;
use crate::tally::{Tally, Times};

pub(crate) use exposition::exposition;
pub(crate) use trend::{Rates, Trend};

/// How a figure moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Quantiles of the last 30 to 60 seconds, with the sum and number of all.
    Summary,
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    /// The metric that it belongs to, without the prefix.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    /// Of a summary: `_sum`, `_count`, or the quantile.
    pub(crate) part: Part,
    pub(crate) value: f64,
}

/// What of its metric a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Quantile(&'static str),
    Sum,
    Count,
}

impl Figure {
    fn new(name: &'static str, kind: Kind, help: &'static str, value: f64) -> Figure {
        Figure { name, kind, help, part: Part::Whole, value }
    }

    /// Its name by itself: `inference_ms_p99` of a quantile.
    pub(crate) fn key(&self) -> String {
        match self.part {
            Part::Whole => self.name.into(),
            Part::Quantile("0.5") => format!("{}_p50", self.name),
            Part::Quantile(_) => format!("{}_p99", self.name),
            Part::Sum => format!("{}_sum", self.name),
            Part::Count => format!("{}_count", self.name),
        }
    }

    /// Of a stream's frames.
    pub(crate) fn of_tally(tally: &mut Tally, rates: Rates) -> Vec<Figure> {
        let counts = tally.counts;
        let gauge = |name, help, value| Figure::new(name, Kind::Gauge, help, value);
        let counter = |name, help, value: u64| Figure::new(name, Kind::Counter, help, value as f64);
        let mut figures = vec![
            gauge(
                "camera_fps",
                "Frames a second that the source gave, over the last 5 seconds.",
                rates.camera,
            ),
            gauge(
                "process_fps",
                "Frames a second that got an answer, over the last 5 seconds.",
                rates.process,
            ),
            gauge(
                "skipped_fps",
                "Frames a second that nobody looked at, over the last 5 seconds.",
                rates.skipped,
            ),
            counter(
                "frames_seen_total",
                "Frames whose fate is known: processed + skipped + broken.",
                counts.seen(),
            ),
            counter("frames_processed_total", "Frames with an answer.", counts.processed),
            counter(
                "frames_skipped_total",
                "Frames that nobody looked at: newer ones were there, or they were too old.",
                counts.skipped,
            ),
            counter("frames_broken_total", "Frames without a picture or row.", counts.broken),
            gauge("queue_depth", "Frames that wait or are being looked at.", counts.waiting as f64),
            counter("seen_bytes_total", "Bytes of all frames, as the source gave them.", counts.bytes),
        ];
        figures.extend(summary(
            "inference_ms",
            "Milliseconds of an answer, pre-processing included.",
            &mut tally.inference,
        ));
        figures.extend(summary(
            "latency_ms",
            "Milliseconds from a frame's last byte to its answer.",
            &mut tally.latency,
        ));
        figures
    }

    /// Of a pipeline beside its frames.
    pub(crate) fn of_pipeline(
        (health, age): (Health, Option<Duration>),
        told: TellFigures,
        swaps: u64,
        refusals: u64,
    ) -> Vec<Figure> {
        let up = f64::from(health == Health::Live);
        let age = age.map_or(f64::NAN, |age| age.as_secs_f64());
        let counter = |name, help, value: u64| Figure::new(name, Kind::Counter, help, value as f64);
        vec![
            Figure::new(
                "source_up",
                Kind::Gauge,
                "1 where the source gives frames, 0 where it fails, waits or has ended.",
                up,
            ),
            Figure::new("frame_age_seconds", Kind::Gauge, "Age of the newest frame with an answer.", age),
            counter("insights_total", "Insights that it gave to the sinks.", told.insights),
            counter("insight_bytes_total", "Bytes of their JSON.", told.bytes),
            counter("samples_total", "Hard samples that were kept.", told.samples),
            counter("samples_refused_total", "Hard samples that found no budget.", told.refused),
            counter("samples_dropped_total", "Hard samples that the disk was too slow for.", told.dropped),
            counter("drift_scenes_total", "Scenes that drift was looked for in.", told.scenes),
            Figure::new("drifting", Kind::Gauge, "Statistics that say that it drifts.", told.drifting as f64),
            counter(
                "model_swaps_total",
                "Packages that took the place of another while the pipeline ran.",
                swaps,
            ),
            counter("model_refusals_total", "New packages that were refused.", refusals),
        ]
    }

    /// Of a sink.
    pub(crate) fn of_sink(sink: &SinkCounters) -> Vec<Figure> {
        let gauge = |name, help, value| Figure::new(name, Kind::Gauge, help, value);
        let counter = |name, help, value: u64| Figure::new(name, Kind::Counter, help, value as f64);
        vec![
            gauge("sink_up", "1 where nothing is wrong with it.", f64::from(sink.state == "ok")),
            counter("sink_delivered_total", "Insights that its receiver has.", sink.delivered),
            gauge("sink_queue_depth", "Insights that wait.", sink.waiting as f64),
            gauge("sink_queue_bytes", "Bytes of JSON that wait in its file.", sink.waiting_bytes as f64),
            counter("sink_dropped_total", "Insights that were dropped.", sink.dropped.total()),
            counter("sink_rejected_total", "What its receiver will never take.", sink.rejected),
            counter("sink_failures_total", "Attempts to reach its receiver that failed.", sink.failures),
            counter(
                "sink_renewals_total",
                "Queues that could not be read and were begun anew.",
                sink.renewals,
            ),
            counter("sent_bytes_total", "Bytes that left the device.", sink.sent_bytes),
        ]
    }

    /// Of the whole process.
    pub(crate) fn of_machine(machine: &Machine) -> Vec<Figure> {
        let gauge = |name, help, value: Option<f64>| Some(Figure::new(name, Kind::Gauge, help, value?));
        let counter = |name, help, value: Option<f64>| Some(Figure::new(name, Kind::Counter, help, value?));
        let figures = [
            gauge(
                "cpu_share",
                "Share of the CPU time of all cores, of this process, over the last second.",
                Some(machine.cpu_share()),
            ),
            counter("cpu_seconds_total", "CPU seconds of this process.", machine.cpu_seconds()),
            gauge(
                "resident_memory_bytes",
                "Resident memory of this process.",
                resident_bytes().map(|bytes| bytes as f64),
            ),
            counter(
                "energy_joules_total",
                "Energy since the start, of all that the machine's meter measures.",
                machine.joules(),
            ),
        ];
        figures.into_iter().flatten().collect()
    }
}

fn summary(name: &'static str, help: &'static str, times: &mut Times) -> Vec<Figure> {
    let ms = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    let of = |part, value| Figure { name, kind: Kind::Summary, help, part, value };
    let (p50, p99) = (ms(times.lately(0.5)), ms(times.lately(0.99)));
    vec![
        of(Part::Quantile("0.5"), p50),
        of(Part::Quantile("0.99"), p99),
        of(Part::Sum, times.sum * 1e3),
        of(Part::Count, times.count as f64),
    ]
}
