//! Parts of a picture.

use serde::{Deserialize, Serialize};

/// Most corners of a polygon.
const CORNERS_MAX: usize = 100;

/// A part of the picture, in shares of its width and height from the left upper corner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    /// Between these edges.
    Rectangle(Rectangle),
    /// Inside of a line through these points and back to the first, by the rule of even and odd.
    Polygon(Vec<[f64; 2]>),
}

/// The edges of a rectangle, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rectangle {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Right edge.
    pub right: f64,
    /// Lower edge.
    pub bottom: f64,
}

/// The point of a box that says where a thing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anchor {
    /// The middle of its lower edge, where a thing stands.
    #[default]
    Bottom,
    /// Its middle.
    Center,
}

impl Anchor {
    /// The point of a box `[left, top, right, bottom]`.
    pub(super) fn of(self, [left, top, right, bottom]: [f64; 4]) -> [f64; 2] {
        let x = (left + right) / 2.0;
        match self {
            Anchor::Bottom => [x, bottom],
            Anchor::Center => [x, (top + bottom) / 2.0],
        }
    }
}

impl Zone {
    pub(super) fn validate(&self) -> Result<(), String> {
        let share = |v: f64| (0.0..=1.0).contains(&v);
        match self {
            Zone::Rectangle(Rectangle { left, top, right, bottom }) => {
                match [left, top, right, bottom].into_iter().all(|&v| share(v))
                    && left < right
                    && top < bottom
                {
                    true => Ok(()),
                    false => Err(format!(
                        "zone: from {left}, {top} to {right}, {bottom}; edges are shares of the picture, 0 to 1, left below \
                         right and top below bottom"
                    )),
                }
            }
            Zone::Polygon(points) => {
                if !(3..=CORNERS_MAX).contains(&points.len()) {
                    return Err(format!(
                        "zone: a polygon has 3 to {CORNERS_MAX} corners, not {}",
                        points.len()
                    ));
                }
                match points.iter().flatten().find(|&&v| !share(v)) {
                    Some(v) => Err(format!("zone: {v} is no share of the picture, 0 to 1")),
                    None => Ok(()),
                }
            }
        }
    }

    /// Whether a point, in shares of the picture, is inside.
    pub fn contains(&self, [x, y]: [f64; 2]) -> bool {
        match self {
            Zone::Rectangle(Rectangle { left, top, right, bottom }) => {
                (*left..=*right).contains(&x) && (*top..=*bottom).contains(&y)
            }
            Zone::Polygon(points) => {
                let edges = points.iter().zip(points.iter().cycle().skip(1));
                // A ray to the right crosses the line an odd number of times.
                let crossed = edges.filter(|([x1, y1], [x2, y2])| {
                    (*y1 > y) != (*y2 > y) && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1
                });
                crossed.count() % 2 == 1
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_and_outside() {
        let rectangle = Zone::Rectangle(Rectangle { left: 0.2, top: 0.0, right: 0.6, bottom: 0.5 });
        // A square without its upper right quarter.
        let corner =
            Zone::Polygon(vec![[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]]);
        for (zone, point, inside) in [
            (&rectangle, [0.2, 0.0], true),
            (&rectangle, [0.6, 0.5], true),
            (&rectangle, [0.61, 0.5], false),
            (&corner, [0.25, 0.25], true),
            (&corner, [0.75, 0.25], false),
            (&corner, [0.75, 0.75], true),
            (&corner, [1.5, 0.75], false),
        ] {
            assert_eq!((zone.validate(), zone.contains(point)), (Ok(()), inside), "{zone:?} {point:?}");
        }
    }

    #[test]
    fn what_is_no_zone_is_named() {
        let check = |zone: Zone, words: &str| {
            let error = zone.validate().unwrap_err();
            assert!(error.contains(words), "{error:?} should say {words:?}");
        };
        check(Zone::Polygon(vec![[0.0, 0.0], [1.0, 1.0]]), "3 to 100 corners, not 2");
        check(Zone::Polygon(vec![[0.0, 0.0], [1.0, 1.0], [100.0, 0.0]]), "100 is no share");
        check(
            Zone::Rectangle(Rectangle { left: 0.5, top: 0.0, right: 0.5, bottom: 1.0 }),
            "left below right",
        );
        check(Zone::Rectangle(Rectangle { left: f64::NAN, top: 0.0, right: 0.5, bottom: 1.0 }), "0 to 1");
    }

    #[test]
    fn where_a_thing_is() {
        assert_eq!(Anchor::Bottom.of([0.0, 0.0, 1.0, 0.5]), [0.5, 0.5]);
        assert_eq!(Anchor::Center.of([0.0, 0.0, 1.0, 0.5]), [0.5, 0.25]);
    }
}
