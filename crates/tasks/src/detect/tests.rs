use super::*;

fn labels(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("c{i}")).collect()
}

/// A network's outputs for one input, and the boxes that they are in a picture of the network's size.
fn check(task: &Detect, outputs: &[&[f32]], want: &[(usize, f32, [f32; 4])]) {
    task.validate().unwrap();
    let got = task.postprocess(task.input.size, outputs).unwrap();
    assert_eq!(got.len(), want.len(), "{:?}: {got:?}", task.head);
    for (got, (class, score, bounds)) in got.iter().zip(want) {
        let close = got.bounds.iter().zip(bounds).all(|(got, want)| (got - want).abs() < 1e-3);
        assert!((got.confidence - score).abs() < 1e-5 && close, "{:?}: {got:?}, not {want:?}", task.head);
        assert_eq!((got.class, got.label.as_str()), (*class, format!("c{class}").as_str()));
    }
}

#[test]
fn yolov5_multiplies_objectness() {
    let task = Detect::new(Head::Yolov5, [64, 64], labels(2));
    let outputs = [
        [10.0, 20.0, 4.0, 8.0, 0.5, 0.9, 0.2],
        [40.0, 40.0, 10.0, 10.0, 0.9, 0.3, 0.8],
        [20.0, 20.0, 10.0, 10.0, 0.2, 1.0, 1.0],
        [41.0, 40.0, 10.0, 10.0, 0.8, 0.2, 0.8],
    ];
    let want = [(1, 0.72, [35.0, 35.0, 45.0, 45.0]), (0, 0.45, [8.0, 16.0, 12.0, 24.0])];
    check(&task, &[&outputs.concat()], &want);
}

#[test]
fn yolov8_has_an_anchor_in_each_column() {
    let task = Detect::new(Head::Yolov8, [64, 64], labels(2));
    let rows = [
        [10.0, 40.0, 0.0],
        [20.0, 40.0, 0.0],
        [4.0, 10.0, 1.0],
        [8.0, 60.0, 1.0],
        [0.3, 0.4, 0.1],
        [0.6, 0.2, 0.2],
    ];
    let want = [(1, 0.6, [8.0, 16.0, 12.0, 24.0]), (0, 0.4, [35.0, 10.0, 45.0, 64.0])];
    check(&task, &[&rows.concat()], &want);
}

#[test]
fn fastestdet_has_a_cell_every_sixteen_pixels() {
    let task = Detect { confidence: 0.3, ..Detect::new(Head::Fastestdet, [32, 48], labels(2)) };
    // Six cells; the fifth (second row, second column) holds something.
    let mut planes = [[0.0f32; 6]; 7];
    for (plane, value) in planes.iter_mut().zip([0.5, 0.5, -0.25, 0.0, -1.0, 0.1, 0.9]) {
        plane[4] = value;
    }
    let (score, sigmoid) = (0.5f32.powf(0.6) * 0.9f32.powf(0.4), 1.0 / (1.0 + 1f32.exp()));
    let (x, y) = (16.0 * (1.0 + 0.5f32.tanh()), 16.0 * (1.0 - 0.25f32.tanh()));
    let (w, h) = (24.0, 32.0 * sigmoid);
    check(&task, &[&planes.concat()], &[(1, score, [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0])]);
}

#[test]
fn ultraface_leaves_the_background_out() {
    let head = Head::Ultraface { priors: None };
    let task = Detect::new(head, [48, 64], labels(1));
    let scores = [0.1, 0.9, 0.95, 0.05, 0.2, 0.8];
    let boxes = [0.25, 0.5, 0.5, 1.0, 0.0, 0.0, 1.0, 1.0, 0.5, 0.0, 1.5, 0.5];
    let want = [(0, 0.9, [16.0, 24.0, 32.0, 48.0]), (0, 0.8, [32.0, 0.0, 64.0, 24.0])];
    check(&task, &[&scores, &boxes], &want);

    let level = Level { stride: 32, sides: vec![16.0] };
    let priors = Some(Priors { levels: vec![level], variance: [0.1, 0.2] });
    let task = Detect::new(Head::Ultraface { priors }, [48, 64], labels(1));
    let (scores, offsets) = ([0.9, 0.1, 0.1, 0.9, 0.9, 0.1, 0.9, 0.1], [0.0; 16]);
    check(&task, &[&scores, &offsets], &[(0, 0.9, [40.0, 8.0, 56.0, 24.0])]);
}

#[test]
fn boxes_are_brought_back_to_the_picture() {
    let task = Detect::new(Head::Yolov8, [64, 64], labels(1));
    let columns = |x: f32, y: f32, w: f32, h: f32| [x, y, w, h, 0.9];
    let found = |size, outputs: [f32; 5]| {
        let found = task.postprocess(size, &[&outputs]).unwrap();
        found.into_iter().map(|d| d.bounds).collect::<Vec<_>>()
    };
    // 128 x 64 becomes 64 x 32, between margins of 16.
    assert_eq!(found([64, 128], columns(32.0, 32.0, 64.0, 32.0)), [[0.0, 0.0, 128.0, 64.0]]);
    assert_eq!(found([64, 128], columns(10.0, 20.0, 4.0, 4.0)), [[16.0, 4.0, 24.0, 12.0]]);
    assert_eq!(found([64, 128], columns(10.0, 16.0, 4.0, 8.0)), [[16.0, 0.0, 24.0, 8.0]], "cut at the edge");
    assert!(found([64, 128], columns(10.0, 8.0, 4.0, 4.0)).is_empty(), "in the margin");
    let stretched =
        Detect { input: PictureInput { fit: crate::Fit::Stretch, ..task.input.clone() }, ..task.clone() };
    let found = stretched.postprocess([32, 128], &[&columns(32.0, 32.0, 32.0, 32.0)]).unwrap();
    assert_eq!(found[0].bounds, [32.0, 8.0, 96.0, 24.0]);
}

#[test]
fn no_output_makes_it_panic() {
    for head in [Head::Yolov5, Head::Yolov8, Head::Fastestdet, Head::Ultraface { priors: None }] {
        let task = Detect::new(head, [32, 32], labels(2));
        for value in [f32::NAN, f32::INFINITY, -1e30, 0.0, 1e30] {
            let outputs: Vec<Vec<f32>> = match task.head {
                Head::Ultraface { .. } => vec![vec![value; 3 * 5], vec![value; 4 * 5]],
                _ => vec![vec![value; 7 * 6 * 4]],
            };
            let outputs: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
            if task.head != Head::Fastestdet {
                assert_eq!(task.postprocess([9, 9], &outputs).map(|found| found.len()), Ok(0), "{value}");
            }
            assert!(task.postprocess([9, 9], &[&[value; 11]]).is_err(), "{:?}", task.head);
            assert!(task.postprocess([9, 9], &[]).is_err());
        }
    }
}

#[test]
fn metrics_count_every_class_of_a_place() {
    let task = Detect::new(Head::Yolov8, [64, 64], labels(2));
    let truth = |class| TrueBox { class, bounds: [16.0, 16.0, 48.0, 48.0], crowd: false };
    let mut metrics = Metrics::new(&task);
    // Below the confidence of answers, and not the surest class of its place.
    metrics.add([64, 64], &[&[32.0, 32.0, 32.0, 32.0, 0.1, 0.2]], &[truth(0)]).unwrap();
    assert_eq!(metrics.metrics(), [("mAP50".to_string(), 1.0), ("mAP50-95".to_string(), 1.0)].into());
    metrics.add([64, 64], &[&[32.0, 32.0, 32.0, 32.0, 0.0, 0.0]], &[truth(0), truth(0), truth(1)]).unwrap();
    assert_eq!(metrics.n(), 2);
    let classes: Vec<_> = metrics.per_class().into_iter().map(|c| (c.label, c.n)).collect();
    assert_eq!(classes, [("c0".to_string(), 3), ("c1".to_string(), 1)]);
    assert!(metrics.add([64, 64], &[&[0.0; 6]], &[truth(2)]).unwrap_err().to_string().contains("class 2"));
}

#[test]
fn contradictions_are_named() {
    let check = |edit: fn(&mut Detect), words: &str| {
        let mut task = Detect::new(Head::Fastestdet, [352, 352], labels(3));
        assert_eq!(task.validate(), Ok(()));
        edit(&mut task);
        let error = task.validate().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("task detect"), "{error}");
    };
    check(|t| t.input.size = [350, 352], "multiples of 16");
    check(|t| t.input.std.clear(), "std has 0 values");
    check(|t| t.labels.clear(), "0 labels");
    check(|t| t.confidence = f32::NAN, "confidence");
    check(|t| t.iou = 1.5, "iou is 1.5");
    check(|t| t.boxes_max = 0, "boxes_max is 0");
    check(
        |t| t.head = Head::Ultraface { priors: Some(Priors { levels: vec![], variance: [0.1; 2] }) },
        "levels",
    );
}

#[test]
fn the_manifest_form_is_stable() {
    let check = |head: Head, words: &str| {
        let task = crate::Task::Detect(Detect::new(head, [64, 32], labels(1)));
        let json = serde_json::to_string(&task).unwrap();
        assert!(json.starts_with(r#"{"kind":"detect","size":[64,32],"channels":3,"#), "{json}");
        assert!(json.contains(words), "{json}");
        assert_eq!(serde_json::from_str::<crate::Task>(&json).unwrap(), task);
    };
    check(
        Head::Yolov8,
        r#""fit":"letterbox","labels":["c0"],"head":"yolov8","confidence":0.25,"iou":0.7,"boxes_max":300}"#,
    );
    check(Head::Fastestdet, r#""bgr":true,"fit":"stretch","labels":["c0"],"head":"fastestdet""#);
    check(Head::Ultraface { priors: None }, r#""head":{"ultraface":{}}"#);
    let priors = Some(Priors::ultraface());
    check(
        Head::Ultraface { priors },
        r#""head":{"ultraface":{"priors":{"levels":[{"stride":8,"sides":[10.0,16.0,24.0]},"#,
    );
}

#[derive(Deserialize)]
struct GoldenFile {
    heads: GoldenHeads,
    precision: GoldenPrecision,
}

#[derive(Deserialize)]
struct GoldenHeads {
    size: [usize; 2],
    picture: [usize; 2],
    classes: usize,
    cases: Vec<GoldenHead>,
}

#[derive(Deserialize)]
struct GoldenHead {
    head: serde_json::Value,
    confidence: f32,
    iou: f32,
    fit: crate::Fit,
    outputs: Vec<Vec<f32>>,
    boxes: Vec<(usize, f32, [f32; 4])>,
}

#[derive(Deserialize)]
struct GoldenPrecision {
    images: usize,
    classes: usize,
    truth: Vec<GoldenBox>,
    found: Vec<GoldenBox>,
    per_class: Vec<Option<[f64; 2]>>,
    #[serde(rename = "mAP50")]
    at_half: f64,
    #[serde(rename = "mAP50-95")]
    over_all: f64,
}

#[derive(Deserialize)]
struct GoldenBox {
    image: usize,
    class: usize,
    #[serde(rename = "box")]
    bounds: [f64; 4],
    #[serde(default)]
    score: f32,
    #[serde(default)]
    crowd: u8,
}

impl GoldenBox {
    fn corners(&self) -> [f64; 4] {
        let [left, top, width, height] = self.bounds;
        [left, top, left + width, top + height]
    }
}

/// By numpy, torchvision and pycocotools (tests/golden/README.md).
fn golden() -> GoldenFile {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/detection.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn heads_give_the_boxes_of_numpy_and_torchvision() {
    let GoldenHeads { size, picture, classes, cases } = golden().heads;
    assert_eq!(cases.len(), 6);
    for case in cases {
        let head = match case.head.as_str() {
            Some("priors") => Head::Ultraface { priors: Some(Priors::ultraface()) },
            _ => serde_json::from_value(case.head).unwrap(),
        };
        let usual = Detect::new(head, size, labels(classes));
        let input = PictureInput { fit: case.fit, ..usual.input.clone() };
        let task = Detect { input, confidence: case.confidence, iou: case.iou, ..usual };
        let outputs: Vec<&[f32]> = case.outputs.iter().map(Vec::as_slice).collect();
        let got = task.postprocess(picture, &outputs).unwrap();
        assert_eq!(got.len(), case.boxes.len(), "{:?}", task.head);
        for (got, want) in got.iter().zip(&case.boxes) {
            let near = got.bounds.iter().zip(want.2).all(|(got, want)| (got - want).abs() < 2e-2);
            let same = got.class == want.0 && (got.confidence - want.1).abs() < 1e-4;
            assert!(near && same, "{:?}: {got:?}, not {want:?}", task.head);
        }
    }
}

#[test]
fn average_precision_is_that_of_pycocotools() {
    let golden = golden().precision;
    let mut evaluation = Evaluation::new(golden.classes);
    for image in 0..golden.images {
        let of_image = |b: &&GoldenBox| b.image == image;
        let mut found: Vec<Found> = golden
            .found
            .iter()
            .filter(of_image)
            .map(|b| Found { class: b.class, score: b.score, bounds: b.corners() })
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        let truth = golden.truth.iter().filter(of_image);
        let truth = truth.map(|b| TrueBox { class: b.class, bounds: b.corners(), crowd: b.crowd != 0 });
        evaluation.add(&found, &truth.collect::<Vec<_>>());
    }
    let close =
        |got: [f64; 2], want: [f64; 2]| got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-9);
    for (class, want) in golden.per_class.iter().enumerate() {
        let got = evaluation.class(class);
        assert!(
            got.zip(*want).map_or(got.is_none() && want.is_none(), |(got, want)| close(got, want)),
            "{class}: {got:?}, {want:?}"
        );
    }
    assert!(close(evaluation.mean(), [golden.at_half, golden.over_all]), "{:?}", evaluation.mean());
}
