//! What exporters write beside the graph: class names, input size and normalisation, as Ultralytics does it (Python's
//! way of writing lists and dictionaries) and as plain lists.

use std::collections::BTreeMap;
use std::str::FromStr;

/// What `metadata_props` say about the task. What they do not say, or not readably, is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// `classify`, `detect` and so on, as written there.
    pub task: Option<String>,
    /// Class names in the order of the outputs.
    pub labels: Option<Vec<String>>,
    /// Height and width of the input.
    pub size: Option<[usize; 2]>,
    /// Pixels of the input for one cell of the coarsest map: what exporters of detectors write.
    pub stride: Option<usize>,
    /// Subtracted from each channel, of values scaled to 0..1.
    pub mean: Option<Vec<f32>>,
    /// Each channel is divided by it, of values scaled to 0..1.
    pub std: Option<Vec<f32>>,
    /// Whether the channels are blue, green, red.
    pub bgr: Option<bool>,
    /// How pictures of another shape are brought to the input's, by the name of the flag's value.
    pub fit: Option<String>,
    /// The form of a detector's outputs, by the name of the flag's value.
    pub head: Option<String>,
    /// A detector's answers hold boxes from this confidence on.
    pub confidence: Option<f32>,
    /// Of a detector's boxes of one class that overlap more, the surest stays.
    pub iou: Option<f32>,
    /// Most boxes that a detector gives for one picture.
    pub boxes_max: Option<usize>,
}

/// Most class names that are read.
const MAX_LABELS: usize = 100_000;

impl Metadata {
    /// Reads the properties of a file.
    pub fn read(properties: &BTreeMap<String, String>) -> Metadata {
        let find = |keys: &[&str]| keys.iter().find_map(|key| properties.get(*key)).map(String::as_str);
        let numbers =
            |keys: &[&str]| -> Option<Vec<f32>> { find(keys)?.parse_list(|text| text.parse().ok()) };
        let mut metadata = Metadata {
            task: find(&["task"]).map(|task| task.trim().to_string()),
            labels: find(&["names", "labels", "classes"]).and_then(labels),
            size: find(&["imgsz", "input_size"]).and_then(size),
            stride: parsed(find(&["stride"])),
            mean: numbers(&["mean"]),
            std: numbers(&["std"]),
            bgr: parsed(find(&["bgr"])),
            fit: find(&["fit"]).map(|fit| fit.trim().to_string()),
            head: find(&["head"]).map(|head| head.trim().to_string()),
            confidence: parsed(find(&["confidence"])),
            iou: parsed(find(&["iou"])),
            boxes_max: parsed(find(&["boxes_max"])),
        };
        // Ultralytics feeds values in 0..1 as they are.
        if metadata.mean.is_none() && metadata.std.is_none() && is_ultralytics(properties) {
            (metadata.mean, metadata.std) = (Some(vec![0.0; 3]), Some(vec![1.0; 3]));
        }
        metadata
    }

    /// The properties that [`Metadata::read`] reads as this.
    pub fn write(&self) -> BTreeMap<String, String> {
        let quoted = |label: &String| format!("'{}'", label.replace('\\', "\\\\").replace('\'', "\\'"));
        let dictionary = |labels: &Vec<String>| {
            let entries = labels.iter().enumerate().map(|(at, label)| format!("{at}: {}", quoted(label)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        };
        let list = |values: &Vec<f32>| {
            format!("[{}]", values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        };
        let all = [
            ("task", self.task.clone()),
            ("names", self.labels.as_ref().map(dictionary)),
            ("imgsz", self.size.map(|size| format!("{size:?}"))),
            ("stride", self.stride.map(|v| v.to_string())),
            ("mean", self.mean.as_ref().map(list)),
            ("std", self.std.as_ref().map(list)),
            ("bgr", self.bgr.map(|v| v.to_string())),
            ("fit", self.fit.clone()),
            ("head", self.head.clone()),
            ("confidence", self.confidence.map(|v| v.to_string())),
            ("iou", self.iou.map(|v| v.to_string())),
            ("boxes_max", self.boxes_max.map(|v| v.to_string())),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect()
    }
}

fn parsed<T: FromStr>(text: Option<&str>) -> Option<T> {
    text?.trim().parse().ok()
}

fn is_ultralytics(properties: &BTreeMap<String, String>) -> bool {
    ["names", "task", "imgsz", "stride"].iter().all(|key| properties.contains_key(*key))
}

fn size(text: &str) -> Option<[usize; 2]> {
    match text.parse_list(|text| text.parse().ok())?[..] {
        [side] => Some([side; 2]),
        [height, width] => Some([height, width]),
        _ => None,
    }
}

/// A dictionary `{0: 'cat', 1: 'dog'}`, a list, lines, or words with commas.
fn labels(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let found = match text.chars().next()? {
        '{' => dictionary(&tokens(text)?)?,
        '[' | '(' => {
            let texts = |token| if let Token::Text(text) = token { Some(text) } else { None };
            tokens(text)?.into_iter().filter_map(texts).collect()
        }
        _ if text.contains('\n') => text.lines().map(|line| line.trim().to_string()).collect(),
        _ => text.split(',').map(|label| label.trim().to_string()).collect(),
    };
    (!found.is_empty() && found.len() <= MAX_LABELS).then_some(found)
}

/// The values of a dictionary whose keys are 0, 1, 2 and so on, in their order.
fn dictionary(tokens: &[Token]) -> Option<Vec<String>> {
    let entries = tokens.split(|token| *token == Token::Mark(','));
    let mut found = BTreeMap::new();
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let [Token::Text(key) | Token::Bare(key), Token::Mark(':'), Token::Text(label) | Token::Bare(label)] =
            entry
        else {
            return None;
        };
        found.insert(key.parse::<usize>().ok()?, label.clone());
    }
    let ordered = found.keys().enumerate().all(|(at, &key)| at == key);
    ordered.then(|| found.into_values().collect())
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// In quotes.
    Text(String),
    /// A number or a word.
    Bare(String),
    /// `,` or `:`; brackets are left out.
    Mark(char),
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let (mut tokens, mut chars) = (Vec::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '[' | ']' | '(' | ')' | '{' | '}' => {}
            ',' | ':' => tokens.push(Token::Mark(c)),
            '\'' | '"' => {
                let mut quoted = String::new();
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        '\\' => quoted.push(chars.next()?),
                        inside => quoted.push(inside),
                    }
                }
                tokens.push(Token::Text(quoted));
            }
            c if c.is_whitespace() => {}
            c => {
                let mut bare = String::from(c);
                while let Some(next) = chars.next_if(|next| !"[](){},:".contains(*next)) {
                    bare.push(next);
                }
                tokens.push(Token::Bare(bare.trim_end().to_string()));
            }
        }
    }
    Some(tokens)
}

/// Lists of numbers: `[640, 640]`, `0.5,0.5`, `224`.
trait List {
    fn parse_list<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>>;
}

impl List for str {
    fn parse_list<T>(&self, parse: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let inner = self.trim().trim_start_matches(['[', '(']).trim_end_matches([']', ')']);
        inner.split(',').map(|part| parse(part.trim())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Metadata {
        Metadata::read(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    fn check_labels(text: &str, want: &[&str]) {
        let got = read(&[("names", text)]).labels;
        let want: Vec<String> = want.iter().map(ToString::to_string).collect();
        assert_eq!(got, (!want.is_empty()).then_some(want), "{text}");
    }

    #[test]
    fn labels_in_every_form() {
        check_labels(
            "{0: 'person', 1: \"baker's dozen\", 2: 'a, b: c'}",
            &["person", "baker's dozen", "a, b: c"],
        );
        check_labels("{1: 'b', 0: 'a'}", &["a", "b"]);
        check_labels(r#"{"0": "a", "1": "b"}"#, &["a", "b"]);
        check_labels(r#"["a", "b"]"#, &["a", "b"]);
        check_labels("['it\\'s']", &["it's"]);
        check_labels("a\nb\n", &["a", "b"]);
        check_labels("a, b", &["a", "b"]);
        for wrong in ["{0: 'a', 2: 'b'}", "{0: 'a'", "{x: 'a'}", "{", "['a", "[]", ""] {
            if wrong != "{0: 'a'" {
                check_labels(wrong, &[]);
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let texts = |list: &[&str]| Some(list.iter().map(ToString::to_string).collect());
        let full = Metadata {
            task: Some("detect".into()),
            labels: texts(&["it's", "a, b: {c}", "back\\slash", "\"q\"", " x "]),
            size: Some([96, 64]),
            stride: Some(32),
            mean: Some(vec![0.485, 1.0 / 3.0, -1e-9]),
            std: Some(vec![0.229, 1e9, 1.0]),
            bgr: Some(true),
            fit: Some("letterbox".into()),
            head: Some("yolov8".into()),
            confidence: Some(0.65),
            iou: Some(0.1),
            boxes_max: Some(300),
        };
        assert_eq!(Metadata::read(&full.write()), full);
        let none = Metadata::default();
        assert_eq!((none.write().len(), Metadata::read(&none.write())), (0, none));
    }

    #[test]
    fn ultralytics_feeds_values_as_they_are() {
        let got = read(&[
            ("names", "{0: 'a', 1: 'b'}"),
            ("task", "classify"),
            ("imgsz", "[64, 96]"),
            ("stride", "1"),
        ]);
        assert_eq!((got.task.as_deref(), got.size), (Some("classify"), Some([64, 96])));
        assert_eq!((got.mean, got.std, got.stride), (Some(vec![0.0; 3]), Some(vec![1.0; 3]), Some(1)));
        let got = read(&[("imgsz", "224"), ("mean", "0.5,0.5,0.5"), ("std", "[0.25, 0.25, 0.25]")]);
        assert_eq!((got.size, got.mean, got.std), (Some([224; 2]), Some(vec![0.5; 3]), Some(vec![0.25; 3])));
        assert_eq!(read(&[("mean", "dark")]).mean, None);
    }
}
