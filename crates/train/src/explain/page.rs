//! explanation.html: the pictures with what they say, and what they do not.

use espalier_pages::{
    Picture, Table, bar, callout, facts, gallery, mosaic, number, page as shell, pair, percent, section,
};
use espalier_tasks::resize::Placement;
use espalier_tasks::{Image, PictureInput};
use maud::{Markup, html};

use super::draw::{blended, shown, tile};
use super::{Active, Channel, Explanation, Heat};

/// Classes in the table of scores.
const SCORES: usize = 8;

/// What is shown.
pub struct Shown<'a> {
    /// The file of the picture, for its title.
    pub file: &'a str,
    /// The package, for its title.
    pub package: &'a str,
    /// The picture.
    pub image: &'a Image,
    /// How it becomes the network's input.
    pub input: &'a PictureInput,
    /// Class names.
    pub labels: &'a [String],
    /// The class that `predict` names.
    pub predicted: usize,
    /// Its scores.
    pub scores: &'a [f32],
    /// The class whose evidence is shown.
    pub class: usize,
    /// The float package that was looked at in place of one of integers, and what it predicts.
    pub parent: Option<(&'a str, usize)>,
    /// What was seen.
    pub explanation: &'a Explanation,
}

/// The page, as one file.
pub fn page(of: &Shown<'_>) -> String {
    let label = &of.labels[of.class];
    let title = format!("Why {label}?");
    let body = html! {
        h1 { (title) }
        p.subtitle { (of.file) ", looked at by " (of.package) }
        (remarks(of))
        (headline(of))
        (section("Where the evidence lies", &evidence(of), heat(of)))
        (section("How sure it is", "", scores(of)))
        (section("What the first layer responds to", FILTERS, filters(of)))
        (section("What the layers make of the picture", LAYERS, html! {
            @for active in &of.explanation.layers { (layer(active)) }
        }))
    };
    shell(&format!("{title} · Espalier"), body)
}

const FILTERS: &str = "The weights of each filter as a picture: light where brightness speaks for it, dark where it speaks \
                       against it, grey where it does not matter. Edges, spots and colours show what it looks for; noise, that \
                       it learned little.";
const LAYERS: &str = "The channels that this picture excites most, from an early layer to a late one: first edges and colours, \
                      then textures, then parts of things. Bright is high, each in its own scale; the number is the channel's mean.";

fn evidence(of: &Shown<'_>) -> String {
    let Explanation { heat, .. } = of.explanation;
    let [height, width] = heat.size;
    format!(
        "Grad-CAM: how much each place of the map {} ({width}\u{202f}×\u{202f}{height} places) speaks for {}, laid over the picture in grey. It says where the network \
         looked, not what it saw there nor that it was right, and no finer than the map is.",
        heat.layer, of.labels[of.class]
    )
}

fn remarks(of: &Shown<'_>) -> Markup {
    let name = |class: usize| of.labels[class].as_str();
    let other = (of.class != of.predicted).then(|| {
        let text = format!(
            "The network takes the picture for {}; this page shows what speaks for {}.",
            name(of.predicted),
            name(of.class)
        );
        callout("note", "Not the predicted class.", &text, &[])
    });
    let parent = of.parent.map(|(file, class)| {
        let agrees = match class == of.predicted {
            true => "It gives the same answer.".to_string(),
            false => format!("It takes the picture for {}, so this explains its answer, not that of the package.", name(class)),
        };
        let text = format!("Integers have no gradients, so all pictures are of {file}, which the package was made of. {agrees}");
        callout("note", "Seen through the float parent.", &text, &[])
    });
    let nothing = (!of.explanation.heat.is_found()).then(|| {
        let text = format!(
            "No place of the map speaks for {}; what is left is that less speaks against it.",
            name(of.class)
        );
        callout("bad", "There is no evidence to show.", &text, &[])
    });
    html! { @for remark in [other, parent, nothing].into_iter().flatten() { (remark) } }
}

fn headline(of: &Shown<'_>) -> Markup {
    let sure = |class: usize| format!("{} sure", percent(of.scores[class].into()));
    let mut all = vec![("predicted", of.labels[of.predicted].clone(), sure(of.predicted))];
    if of.class != of.predicted {
        all.push(("explained", of.labels[of.class].clone(), sure(of.class)));
    }
    let size = format!("{}\u{202f}×\u{202f}{}", of.image.width, of.image.height);
    let [height, width] = of.input.size;
    all.push(("picture", size, format!("seen at {width}\u{202f}×\u{202f}{height}")));
    let Heat { layer, size: [height, width], .. } = &of.explanation.heat;
    all.push(("map", format!("{width}\u{202f}×\u{202f}{height}"), format!("of layer {layer}")));
    facts(&all)
}

fn heat(of: &Shown<'_>) -> Markup {
    let hot = blended(of.image, &of.explanation.heat, of.input);
    let cut = match is_cut(of) {
        true => " What is dark was cut off before the network looked.",
        false => "",
    };
    let heat = format!("what speaks for {}: violet a little, yellow most.{cut}", of.labels[of.class]);
    pair(&[
        (picture(&shown(of.image), "the picture"), html! { "the picture" }),
        (picture(&hot, &format!("the picture with {heat}")), html! { (heat) }),
    ])
}

/// Whether the network sees only a part of the picture.
fn is_cut(of: &Shown<'_>) -> bool {
    let placement = Placement::new([of.image.height, of.image.width], of.input.size, of.input.fit);
    placement.offset.iter().any(|offset| *offset < -0.5)
}

fn scores(of: &Shown<'_>) -> Markup {
    let mut order: Vec<usize> = (0..of.labels.len()).collect();
    order.sort_by(|&a, &b| of.scores[b].total_cmp(&of.scores[a]));
    let mut table = Table::new().text("class").number("score").bars();
    for &class in order.iter().take(SCORES) {
        let score = f64::from(of.scores[class]);
        table.row(vec![html! { (of.labels[class]) }, html! { (percent(score)) }, bar(score)]);
    }
    html! { (table) }
}

fn filters(of: &Shown<'_>) -> Markup {
    let Some(filters) = &of.explanation.filters else {
        return html! { p { "The first layer is no convolution of the picture itself, so it has no filters to show." } };
    };
    let one = |(number, image): (usize, &Image)| picture(image, &format!("filter {number}"));
    let pictures: Vec<Picture> = filters.pictures.iter().enumerate().map(one).collect();
    html! {
        p { "Layer " (filters.name) ", " (pictures.len()) " of " (filters.count) " filters." }
        (mosaic(&pictures))
    }
}

fn layer(active: &Active) -> Markup {
    let [height, width] = active.size;
    let one = |channel: &Channel| {
        let caption = html! { "channel " (channel.number) span { (number(f64::from(channel.mean))) } };
        (picture(&tile(channel, active.size), &format!("channel {}", channel.number)), caption)
    };
    let pictures: Vec<_> = active.channels.iter().map(one).collect();
    html! {
        h3 { "Layer " (active.name) }
        p { (width) "\u{202f}×\u{202f}" (height) " places, " (pictures.len()) " of " (active.count) " channels." }
        (gallery(&pictures))
    }
}

fn picture(image: &Image, alt: &str) -> Picture {
    Picture::pixels(image.width, image.height, image.channels, &image.pixels, alt)
        .expect("an image has its pixels")
}
