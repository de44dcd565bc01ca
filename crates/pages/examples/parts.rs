//! Every part of a page on one page, to be looked at: `cargo run -p espalier-pages --example parts > parts.html`.

use espalier_pages::{
    Axis, Chart, Heat, Picture, Table, bar, callout, facts, gallery, number, page, percent, properties,
    section,
};
use maud::{Render, html};

fn main() {
    let epochs = (1..=40).map(f64::from);
    let train = epochs.clone().map(|e| (e, 0.2 + 1.4 * (-e / 9.0).exp()));
    let val =
        epochs.clone().map(|e| (e, 0.35 + 1.2 * (-e / 7.0).exp() + 0.0004 * (e - 22.0).max(0.0).powi(2)));
    let loss = Chart::new("Loss", Axis::new("epoch").whole(), Axis::new("cross-entropy"))
        .line("val", val)
        .line("train", train)
        .mark(22.0, "epoch 22 was kept");
    let rate = Chart::new("Learning rate", Axis::new("epoch").whole(), Axis::new("logarithmic").log())
        .line("rate", epochs.map(|e| (e, 0.1 * (-e / 6.0).exp())));
    let candidates = [
        (0.4, 0.912, "pruned 75 %"),
        (0.7, 0.931, "pruned 50 %"),
        (0.72, 0.934, "int8"),
        (2.1, 0.941, "as trained"),
    ];
    let pareto = Chart::new(
        "Accuracy and latency",
        Axis::new("ms"),
        Axis::new("share of val that is right").percent(),
    )
    .points("candidates", candidates)
    .points("chosen", [(0.55, 0.936, "pruned 50 %, int8")]);
    let times = Chart::new("Drift", Axis::new("").time(), Axis::new("distance"))
        .line("camera 7", (0..48).map(|h| (1.79e9 + 1800.0 * f64::from(h), 0.1 + 0.002 * f64::from(h))));

    let names: Vec<String> =
        ["bicycle", "bus", "car", "dog", "motorcycle", "person"].map(String::from).to_vec();
    let counts = |i: usize, j: usize| if i == j { 80 } else { [0, 3, 11, 0, 1, 24][(i * 3 + j * 5) % 6] };
    let matrix = (0..6).map(|i| (0..6).map(|j| counts(i, j)).collect()).collect();
    let mut table = Table::new().text("class").number("images").bars().number("F1");
    for (i, name) in names.iter().enumerate() {
        let n = 40.0 * (6 - i) as f64;
        table.row(vec![
            html! { (name) },
            html! { (number(n)) },
            bar(n / 240.0),
            html! { (percent(0.9 - 0.03 * i as f64)) },
        ]);
    }
    let picture = |i: usize| {
        let pixel = |at: usize| [(at % 24 * 10) as u8, (at / 24 * 10) as u8, (i * 30) as u8];
        let pixels: Vec<u8> = (0..24 * 24).flat_map(pixel).collect();
        (
            Picture::pixels(24, 24, 3, &pixels, "a gradient").expect("pixels that fit"),
            html! { b { "dog" } " 98 %" span { "labelled cat" } },
        )
    };
    let settings: Vec<(String, String)> =
        (0..14).map(|i| (format!("setting {i}"), format!("value {}", i * i))).collect();
    let advice = [
        "more pictures, or stronger augmentation".to_string(),
        "a smaller network (--model, --width)".into(),
    ];

    let body = html! {
        h1 { "Every part of a page" }
        p.subtitle { "One of each, to be looked at in light and dark, on a phone and on paper" }
        (callout("bad", "Overfitting: the loss on val turned at epoch 22 while that of training kept falling.", "What to try:", &advice))
        (callout("good", "The target accuracy=0.95 was reached at epoch 12.", "", &[]))
        (facts(&[
            ("val accuracy", percent(0.941), "93.1 to 95.0 by 2400 images".into()),
            ("parameters", "2.28 M".into(), String::new()),
            ("best epoch", "22".into(), "of 40".into()),
            ("time", "12 min 04 s".into(), "431 images/s in training".into()),
        ]))
        (section("Charts", "Lines and points.", html! { div.columns { (loss) (rate) (pareto) (times) } }))
        (section("Confusion", "Rows are labels, columns guesses.", Heat::new(names, matrix, "label", "guess").render()))
        (section("Table", "", table.render()))
        (section("Pictures", "The most confident first.", gallery(&(0..8).map(picture).collect::<Vec<_>>())))
        (section("Settings", "", properties(&settings)))
    };
    println!("{}", page("Parts", body));
}
