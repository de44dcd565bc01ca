//! Frames of a video resemble the ones before: only those that show something else count as another observation.

use espalier_tasks::reference::Thumbnail;

/// Tells where a scene begins. Its first frame stands for it.
#[derive(Debug)]
pub(super) struct Scenes {
    /// Correlation from which on two pictures show the same scene.
    same: f32,
    first: Option<Thumbnail>,
}

impl Scenes {
    pub(super) fn new(same: f32) -> Scenes {
        Scenes { same, first: None }
    }

    /// Whether a frame begins another scene than the frame that began the last one.
    pub(super) fn is_new(&mut self, frame: &Thumbnail) -> bool {
        let is_same = self.first.as_ref().is_some_and(|first| first.correlation(frame) >= self.same);
        if !is_same {
            self.first = Some(frame.clone());
        }
        !is_same
    }
}
