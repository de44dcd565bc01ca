//! The page around a live picture.

use espalier_pages::live_page;
use maud::{Markup, html};

use super::Board;

const SCRIPT: &str = include_str!("../../assets/live.js");
const STATUS_SCRIPT: &str = include_str!("../../assets/status.js");

/// Names of figures as people know them, and the elements that the script fills.
const FIGURES: [(&str, &str, &str); 6] = [
    ("Frames a second", "fps", "processed"),
    ("Inference", "ms", "milliseconds a frame"),
    ("End to end", "latency_ms", "milliseconds from frame to answer"),
    ("Frames seen", "seen", ""),
    ("Skipped", "skipped", "newer ones were there"),
    ("Broken", "broken", "no picture"),
];

pub(super) fn html(board: &Board) -> String {
    let body = html! {
        h1 { (board.title()) }
        p.subtitle { (board.package()) " · " span #state role="status" { "waiting for the first frame" } }
        div.live {
            figure #view { img #picture src="picture.mjpeg" alt="The newest picture with its answer"; }
            div {
                p.answer #answer { "–" }
                table { tbody #scores {} }
            }
        }
        dl.facts {
            @for (name, id, note) in FIGURES {
                div {
                    dt { (name) }
                    dd id=(id) { "–" }
                    @if !note.is_empty() { dd.note { (note) } }
                }
            }
        }
        noscript { p { "The figures need JavaScript; the picture does not." } }
    };
    live_page(board.title(), body, SCRIPT)
}

/// Figures of a pipeline on the status page: what they are called, and what is counted.
const COUNTERS: [(&str, &[&str]); 9] = [
    ("Frames a second: camera, processed, skipped", &["camera_fps", "process_fps", "skipped_fps"]),
    ("Inference in ms: p50, p99", &["inference_ms_p50", "inference_ms_p99"]),
    ("End to end in ms: p50, p99", &["latency_ms_p50", "latency_ms_p99"]),
    ("Frames seen", &["frames_seen_total"]),
    (
        "Processed, skipped, broken",
        &["frames_processed_total", "frames_skipped_total", "frames_broken_total"],
    ),
    ("Waiting", &["queue_depth"]),
    ("Bytes seen", &["seen_bytes_total"]),
    ("Bytes of insights", &["insight_bytes_total"]),
    ("Hard samples, statistics that drift", &["samples_total", "drifting"]),
];

/// The page of an agent with several pipelines.
pub(crate) fn status<'a>(device: &str, pipelines: impl Iterator<Item = (&'a str, &'a Board)>) -> String {
    let body = html! {
        h1 { (device) }
        p.subtitle #machine role="status" { "–" }
        @for (name, board) in pipelines { (section(name, board)) }
        section #sinks hidden {
            h2 { "Where insights go" }
            table {
                thead { tr { @for name in ["Sink", "State", "Delivered", "Waiting", "Dropped", "Bytes sent"] { th { (name) } } } }
                tbody {}
            }
        }
        p.subtitle { a href="metrics" { "Metrics for Prometheus" } }
        noscript { p { "The figures and pictures need JavaScript; each pipeline's picture.mjpeg does not." } }
    };
    live_page(device, body, STATUS_SCRIPT)
}

fn section(name: &str, board: &Board) -> Markup {
    html! {
        section.pipeline data-name=(name) {
            h2 { (name) }
            p.subtitle { (board.title()) " · " span.package { (board.package()) } " · " span.state role="status" { "–" } }
            p.refused hidden {}
            div.live {
                figure.view { img alt={ "The newest picture of " (name) " with its answer" }; }
                div {
                    p.answer { "–" }
                    table { tbody {
                        @for (text, counters) in COUNTERS {
                            tr { td { (text) } td.number data-counters=(counters.join(" ")) { "–" } }
                        }
                    } }
                }
            }
        }
    }
}
