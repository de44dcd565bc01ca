//! The report says what was measured, and stands alone.

mod common;

use common::{Drawn, easy, request, split, train};
use espalier_train::Overrides;

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn a_report_holds_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let data = easy(folder.path(), 128, 40);
    // One of val's labels is wrong, and no network of any use will agree with it.
    split(&data, "val", 40, |i, _| Drawn { shows: i % 4, label: if i == 7 { 0 } else { i % 4 } });
    let overrides = Overrides { epochs: Some(12), patience: Some(12), ..Overrides::default() };
    let (outcome, _) = train(&request(&data, folder.path(), overrides));
    let accuracy = outcome.metrics["accuracy"];
    assert_eq!(accuracy, 39.0 / 40.0, "the wrong label alone is missed");

    let text = std::fs::read_to_string(folder.path().join("run/report.html")).unwrap();
    assert!(text.contains("97.5\u{202f}%") && text.contains(&outcome.verdict.text));
    for heading in ["Curves", "Confusion", "Classes", "Mistakes", "Inputs", "Time", "Settings", "Machine"] {
        assert_eq!(count(&text, &format!("<h2>{heading}</h2>")), 1, "{heading}");
    }
    assert_eq!(count(&text, " data-chart="), 3);
    assert!(text.contains("title=\"0 taken for 3: 1 of 11\">1</td>"), "the confusion is in the matrix");
    assert!(text.contains("labelled 0") && text.contains("alt=\"labelled 0, taken for 3\""));
    assert!(text.contains("val-images-idx3-ubyte[7]"), "the mistake's file is named");
    // The mistake and one batch of inputs.
    assert_eq!(count(&text, "<img src=\"data:image/png;base64,"), 1 + 16);
    assert!(!text.contains("src=\"http") && !text.contains("<link"));
    assert!(text.contains("<dt>augment.geometric.pad</dt>") && text.contains("<dt>processor</dt>"));
}

#[test]
fn class_names_cannot_break_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let evil = "<script>alert(1)<";
    for class in [evil, "plain"] {
        let path = data.join("train").join(class);
        std::fs::create_dir_all(&path).unwrap();
        for i in 0..24u8 {
            let value = if class == evil { 40 } else { 200 };
            let pixels =
                image::GrayImage::from_fn(16, 16, |x, y| image::Luma([value + ((x * 3 + y) as u8 ^ i) % 32]));
            pixels.save(path.join(format!("{i}.png"))).unwrap();
        }
    }
    let overrides = Overrides { epochs: Some(1), ..Overrides::default() };
    train(&request(&data, folder.path(), overrides));
    let text = std::fs::read_to_string(folder.path().join("run/report.html")).unwrap();
    assert!(text.contains("&lt;script&gt;alert(1)&lt;") && !text.contains("<script>alert"));
}
