//! The page around a live picture.

use espalier_pages::live_page;
use maud::html;

use super::Board;

const SCRIPT: &str = include_str!("../../assets/live.js");

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
        h1 { (board.title) }
        p.subtitle { (board.model) " · " span #state role="status" { "waiting for the first frame" } }
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
    live_page(&board.title, body, SCRIPT)
}
