//! TensorBoard event files: scalars by step, settings as text.
//!
//! A run writes one file each time that it starts. A run that was resumed begins its file with TensorBoard's own sign for
//! that, a session start at the first step that is done again: readers then drop what earlier files hold from that step
//! on, so that no step counts twice. The format is TensorFlow's: records of `Event` messages (`tensorflow/core/util/event.proto`),
//! each between its length and a checksum (`tensorflow/core/lib/io/record_writer.h`).

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use crc::{CRC_32_ISCSI, Crc};
use prost::Message;

use super::Observer;
use crate::event::Event;
use crate::run_folder::RunFolder;

/// Values of the training loss that each epoch leaves, about.
const LOSSES_PER_EPOCH: usize = 20;

/// What every event file's name begins with; ten digits follow, by which readers order the files of a run.
const PREFIX: &str = "events.out.tfevents.";

/// Writes scalars and settings for TensorBoard.
pub struct TensorBoard {
    folder: PathBuf,
    file: Option<EventFile>,
}

impl TensorBoard {
    /// In `folder`. The file is made when the run starts.
    pub fn new(folder: &RunFolder) -> Self {
        TensorBoard { folder: folder.path().into(), file: None }
    }

    fn start(&mut self, settings: &[(String, String)], step: usize) -> anyhow::Result<()> {
        let mut file = EventFile::create(&self.folder)?;
        if step > 0 {
            file.write(
                step + 1,
                message::event::What::Session(message::SessionLog { status: message::START }),
            )?;
        }
        file.text("settings", &markdown(settings))?;
        file.sync()?;
        self.file = Some(file);
        Ok(())
    }
}

impl Observer for TensorBoard {
    fn observe(&mut self, event: &Event<'_>) -> anyhow::Result<()> {
        if let Event::Started { subject, step, .. } = event {
            return self.start(&subject.settings(), *step);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        match event {
            Event::Step { batch, batches, step, step_loss, .. } => {
                let part = |batch: usize| batch * LOSSES_PER_EPOCH / batches;
                if part(*batch) != part(batch - 1) {
                    file.scalars(*step, &[("train/loss".into(), *step_loss)])?;
                }
            }
            Event::Epoch { row, step, .. } => {
                let train = [
                    ("lr", Some(row.lr)),
                    ("train/accuracy", row.train_accuracy),
                    ("train/loss_epoch", Some(row.train_loss)),
                ];
                let train = train.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?)));
                let val = row.val.iter().map(|(name, value)| (format!("val/{name}"), *value));
                file.scalars(*step, &train.chain(val).collect::<Vec<_>>())?;
                file.sync()?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Settings as TensorBoard's text panel shows them: a table in Markdown.
fn markdown(settings: &[(String, String)]) -> String {
    let row = |(name, value): &(String, String)| format!("| {name} | {value} |\n");
    let rows: String = settings.iter().map(row).collect();
    format!("| setting | value |\n|---|---|\n{rows}")
}

/// One event file. Whatever instant the process dies at, the records before stay readable.
struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// A new file that readers take after those that are there.
    fn create(folder: &Path) -> anyhow::Result<EventFile> {
        let newest = numbers(folder).with_context(|| folder.display().to_string())?.into_iter().max();
        let mut number = (now() as u64).max(newest.map_or(0, |n| n + 1));
        loop {
            let path = folder.join(format!("{PREFIX}{number:010}.espalier"));
            match File::create_new(&path) {
                Ok(file) => {
                    let mut file = EventFile { path, file };
                    file.write(0, message::event::What::FileVersion("brain.Event:2".into()))?;
                    return Ok(file);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(e).context(path.display().to_string()),
            }
        }
    }

    fn scalars(&mut self, step: usize, values: &[(String, f64)]) -> anyhow::Result<()> {
        let value = |(tag, value): &(String, f64)| message::Value {
            tag: tag.clone(),
            simple_value: Some(*value as f32),
            ..message::Value::default()
        };
        self.write(
            step,
            message::event::What::Summary(message::Summary { value: values.iter().map(value).collect() }),
        )
    }

    /// In the form of TensorBoard's text plug-in.
    fn text(&mut self, name: &str, text: &str) -> anyhow::Result<()> {
        let plugin = message::PluginData { plugin_name: "text".into() };
        let dim = vec![message::Dim { size: 1 }];
        let value = message::Value {
            tag: format!("{name}/text_summary"),
            simple_value: None,
            tensor: Some(message::Tensor {
                dtype: message::STRING,
                shape: Some(message::TensorShape { dim }),
                string_val: vec![text.as_bytes().to_vec()],
            }),
            metadata: Some(message::SummaryMetadata {
                plugin_data: Some(plugin),
                data_class: message::TENSOR,
            }),
        };
        self.write(0, message::event::What::Summary(message::Summary { value: vec![value] }))
    }

    fn write(&mut self, step: usize, what: message::event::What) -> anyhow::Result<()> {
        let event = message::Event { wall_time: now(), step: step as i64, what: Some(what) };
        // In one call, so that only a power cut can leave a part of it.
        self.file.write_all(&record(&event.encode_to_vec())).with_context(|| self.path.display().to_string())
    }

    fn sync(&self) -> anyhow::Result<()> {
        self.file.sync_data().with_context(|| self.path.display().to_string())
    }
}

/// Numbers of the event files in a folder.
fn numbers(folder: &Path) -> std::io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next());
        found.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    Ok(found)
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

/// Length, its checksum, content, its checksum.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), content, &masked_crc(content)].concat()
}

/// CRC-32C, rotated and shifted as the format wants it, since checksums of checksums are weak.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// The parts of TensorFlow's messages that are written, with their field numbers.
mod message {
    /// `SessionLog.SessionStatus.START`.
    pub(super) const START: i32 = 1;
    /// `DataType.DT_STRING`.
    pub(super) const STRING: i32 = 7;
    /// `DataClass.DATA_CLASS_TENSOR`.
    pub(super) const TENSOR: i32 = 2;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Event {
        #[prost(double, tag = "1")]
        pub(super) wall_time: f64,
        #[prost(int64, tag = "2")]
        pub(super) step: i64,
        #[prost(oneof = "event::What", tags = "3, 5, 7")]
        pub(super) what: Option<event::What>,
    }

    pub(super) mod event {
        #[derive(Clone, PartialEq, prost::Oneof)]
        pub(in super::super) enum What {
            #[prost(string, tag = "3")]
            FileVersion(String),
            #[prost(message, tag = "5")]
            Summary(super::Summary),
            #[prost(message, tag = "7")]
            Session(super::SessionLog),
        }
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SessionLog {
        #[prost(int32, tag = "1")]
        pub(super) status: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Summary {
        #[prost(message, repeated, tag = "1")]
        pub(super) value: Vec<Value>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Value {
        #[prost(string, tag = "1")]
        pub(super) tag: String,
        #[prost(float, optional, tag = "2")]
        pub(super) simple_value: Option<f32>,
        #[prost(message, optional, tag = "8")]
        pub(super) tensor: Option<Tensor>,
        #[prost(message, optional, tag = "9")]
        pub(super) metadata: Option<SummaryMetadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Tensor {
        #[prost(int32, tag = "1")]
        pub(super) dtype: i32,
        #[prost(message, optional, tag = "2")]
        pub(super) shape: Option<TensorShape>,
        #[prost(bytes = "vec", repeated, tag = "8")]
        pub(super) string_val: Vec<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TensorShape {
        #[prost(message, repeated, tag = "2")]
        pub(super) dim: Vec<Dim>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Dim {
        #[prost(int64, tag = "1")]
        pub(super) size: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct SummaryMetadata {
        #[prost(message, optional, tag = "1")]
        pub(super) plugin_data: Option<PluginData>,
        #[prost(int32, tag = "4")]
        pub(super) data_class: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PluginData {
        #[prost(string, tag = "1")]
        pub(super) plugin_name: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        // CRC-32C of "123456789" is 0xe3069283 (RFC 3720); masked by hand.
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5u32.to_le_bytes());
    }
}
