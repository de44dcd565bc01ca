//! `espalier run`: a package on raw tensors, or on a stream.

mod stream;
mod tensors;

use std::path::PathBuf;

use crate::compute::Compute;

/// Run a package on a stream of pictures or of rows, or on tensors from .npy files.
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").args(["source", "input"]).required(true),
    after_help = "\
Sources: a number is a camera (0 is /dev/video0); a folder of pictures, a picture, a file of JPEGs one after another \
(.mjpeg, .mjpg) or any video; for a detector of anomalies a series, a row a line (.csv with a header, .jsonl); http://, \
https:// (MJPEG, a picture, or a video), rtsp:// and other URLs, in which ${NAME} stands for a variable of the \
environment; - is standard input, pictures one after another, or rows; \
builtin:mnist-5k?rate=20&darkness=0.6 the built-in digits as a camera (docs/insights.md). Videos, cameras and \
RTSP need the program ffmpeg. One line (with --json one JSON object) is printed for each frame; broken ones are named on \
stderr. Ctrl-C ends the stream; the counts follow on stderr.

With --input, tensors are taken as the graph takes them (see `inspect`): pre-processing is not applied. Each output NAME \
is written to DIR/NAME.npy.

Examples:
  espalier run detector.espalier --source street.mp4 --show --rate 12.5
  espalier run detector.espalier --source 'rtsp://viewer:${CAMERA_PASSWORD}@192.168.1.20/stream1' --json
  espalier run pump.espalier --source pump.csv --rate 100 --json
  espalier run runs/train/best.espalier --input x=x.npy --out answers"
)]
pub(crate) struct Args {
    /// The package.
    package: PathBuf,
    #[command(flatten)]
    compute: Compute,
    /// Print JSON: one object, or with --source one for each frame.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    stream: stream::Args,
    #[command(flatten)]
    tensors: tensors::Args,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.stream.source {
        Some(source) => stream::run(args, source),
        None => tensors::run(args),
    }
}
