//! The shell around every page.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::chart::CHART_ATTRIBUTE;

const STYLE: &str =
    concat!(include_str!("../assets/uplot/uPlot.min.css"), include_str!("../assets/page.css"));
const SCRIPT: &str = concat!(
    "/* uPlot\n",
    include_str!("../assets/uplot/LICENSE"),
    "*/\n",
    include_str!("../assets/sharp.js"),
    include_str!("../assets/uplot/uPlot.iife.min.js"),
    include_str!("../assets/charts.js")
);

/// What a page may use: only what stands in it, and of scripts and styles only ours. Markup that got in by mistake runs
/// nothing. `own` is what else its own server may give.
fn policy(script: &str, own: &str) -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; img-src data:{own}; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'",
        hash(STYLE),
        hash(script)
    )
}

static POLICY: LazyLock<String> = LazyLock::new(|| policy(SCRIPT, ""));

/// A whole page: `title` is the browser tab's, `body` everything that is seen. The script that draws charts is added
/// where `body` holds one.
pub fn page(title: &str, body: Markup) -> String {
    let charts = body.0.contains(CHART_ATTRIBUTE);
    shell(title, body, &POLICY, charts.then_some(SCRIPT))
}

/// A page that is kept up to date by the program that serves it: `script` may connect to where the page came from, and
/// pictures may come from there.
pub fn live_page(title: &str, body: Markup, script: &str) -> String {
    shell(title, body, &policy(script, " 'self'; connect-src 'self'"), Some(script))
}

fn shell(title: &str, body: Markup, policy: &str, script: Option<&str>) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { (body) }
                footer { "Espalier " (env!("CARGO_PKG_VERSION")) }
                @if let Some(script) = script { script { (PreEscaped(script)) } }
            }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Axis, Chart, Picture};

    fn chart() -> Chart {
        Chart::new("Loss", Axis::new("epoch"), Axis::new("nats")).line("train", [(1.0, 2.0)])
    }

    #[test]
    fn nothing_is_loaded_from_anywhere() {
        let picture = Picture::pixels(1, 1, 3, &[1, 2, 3], "a dot").unwrap();
        let text = page("t", html! { (chart()) (picture) });
        for scheme in ["src=\"http", "href=\"http", "url(http", "@import", "//cdn"] {
            assert!(!text.contains(scheme), "{scheme}");
        }
        assert!(text.contains("src=\"data:image/png;base64,"));
    }

    #[test]
    fn a_live_page_may_ask_where_it_came_from_and_nowhere_else() {
        let text = live_page("t", html! { p { "now" } }, "let now = 1;");
        let sources = "img-src data: 'self'; connect-src 'self'; style-src";
        assert!(text.contains(sources), "{text}");
        check_policy(&text);
    }

    #[test]
    fn the_policy_names_exactly_the_scripts_of_the_page() {
        check_policy(&page("t", html! { (chart()) }));
    }

    fn check_policy(text: &str) {
        let policy = text.split("content=\"").nth(1).unwrap().split('"').next().unwrap();
        for (tag, source) in [("script", "script-src"), ("style", "style-src")] {
            let open = format!("<{tag}>");
            assert_eq!(text.matches(&format!("<{tag}")).count(), 1, "one {tag}");
            let content = text.split(&open).nth(1).unwrap().split(&format!("</{tag}>")).next().unwrap();
            let hash = STANDARD.encode(Sha256::digest(content));
            assert!(policy.contains(&format!("{source} 'sha256-{hash}'")), "{policy}");
        }
        assert!(!policy.contains("unsafe"));
    }

    #[test]
    fn a_page_without_charts_has_no_script() {
        assert!(!page("t", html! { p { "words, among them data-chart=" } }).contains("<script"));
    }

    #[test]
    fn foreign_text_stays_text() {
        let evil = "</title><script>alert(1)</script>\"'&";
        let chart = Chart::new(evil, Axis::new(evil), Axis::new(evil))
            .points(evil, [(1.0, 1.0, evil)])
            .mark(1.0, evil);
        let picture = Picture::pixels(1, 1, 1, &[0], evil).unwrap();
        let text = page(evil, html! { (chart) (picture) (evil) });
        assert!(!text.contains("<script>alert"), "{text}");
        assert_eq!(text.matches("</title>").count(), 1);
    }
}
