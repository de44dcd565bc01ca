//! Any text as a graph. What parses writes itself and parses back to an equal graph; no stage's check panics.

#![no_main]

use espalier_graph::{Graph, Stage, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(graph) = text.parse::<Graph>() else { return };
    let written = graph.to_string();
    assert_eq!(written.parse::<Graph>().as_ref(), Ok(&graph), "{written}");
    for stage in [Stage::Trainable, Stage::Step, Stage::Portable] {
        let _ = verify(&graph, stage);
    }
});
