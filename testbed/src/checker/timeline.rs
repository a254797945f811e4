//! A picture of a history: one row a replica, terms as bands, writes as ticks, violations in red.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;

use super::history::{History, Request};
use super::verdict::{Breach, Verdict, pod, split};

/// Width of the part with the time in it. Unit: pixels.
const WIDTH: f64 = 1500.0;
/// Left of it are the names.
const LEFT: f64 = 130.0;
/// Height of a row.
const ROW: f64 = 46.0;
/// Above the first row.
const TOP: f64 = 54.0;
/// The bands' colours, by term in turn: neighbours differ also for those who see few colours.
const BANDS: [&str; 6] = ["#9ecae1", "#fdd0a2", "#c7e9c0", "#dadaeb", "#fee391", "#d9d9d9"];

/// Draws it as SVG: the whole, however long, on one width.
///
/// Writes that fall into one pixel of a row are one tick; no violation hides behind another write.
pub fn timeline(history: &History, verdict: &Verdict) -> String {
    let writes: Vec<&Request> =
        history.requests.iter().filter(|r| r.claim.is_some() && r.succeeded().is_some()).collect();
    let times = || {
        let terms = verdict.term_list.iter().map(|term| term.answered_us);
        terms.chain(writes.iter().map(|write| write.received_us))
    };
    let (from, to) = (times().min().unwrap_or(0), times().max().unwrap_or(0));
    let scale = Scale { from, span: (to - from).max(1) as f64 };
    let pods = rows(verdict, &writes);
    let height = TOP + ROW * pods.len() as f64 + 40.0;

    let mut svg = String::new();
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    line(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{height}" viewBox="0 0 {w} {height}" font-family="sans-serif" font-size="12">"#,
        w = LEFT + WIDTH + 20.0
    ));
    line(r#"<rect width="100%" height="100%" fill="white"/>"#.to_owned());
    line(format!(
        r#"<text x="10" y="22" font-size="15">{:?}: {} terms, {} writes, {} violations, {} tail, {} in flight</text>"#,
        verdict.outcome,
        verdict.terms,
        verdict.writes,
        verdict.violation_count(),
        verdict.tail,
        verdict.in_flight
    ));
    for (pod, y) in &pods {
        line(format!(r#"<text x="10" y="{:.1}">{}</text>"#, y + ROW / 2.0, escape(pod)));
    }
    line(bands(verdict, &pods, &scale, to));
    line(ticks(&writes, &pods, &scale));
    line(marks(verdict, &pods, &scale));
    line(axis(&scale, height));
    line("</svg>".to_owned());
    svg
}

struct Scale {
    from: i64,
    span: f64,
}

impl Scale {
    fn x(&self, us: i64) -> f64 {
        LEFT + (us - self.from) as f64 / self.span * WIDTH
    }
}

/// The rows' upper edges by pod.
fn rows<'a>(verdict: &'a Verdict, writes: &[&'a Request]) -> BTreeMap<&'a str, f64> {
    let of_terms = verdict.term_list.iter().map(super::verdict::Term::pod);
    let pods: BTreeSet<&str> = of_terms.chain(writes.iter().filter_map(|write| writer(write))).collect();
    pods.into_iter().enumerate().map(|(row, pod)| (pod, TOP + ROW * row as f64)).collect()
}

fn writer(request: &Request) -> Option<&str> {
    request.claim.as_deref().map(|claim| pod(split(claim).0))
}

fn bands(verdict: &Verdict, pods: &BTreeMap<&str, f64>, scale: &Scale, to: i64) -> String {
    let mut out = String::new();
    for (number, term) in verdict.term_list.iter().enumerate() {
        let end = verdict.term_list.get(number + 1).map_or(to, |next| next.answered_us);
        let (x, y) = (scale.x(term.answered_us), pods.get(term.pod()).copied().unwrap_or(TOP));
        let width = (scale.x(end) - x).max(1.0);
        let colour = BANDS[number % BANDS.len()];
        // A write to a String does not fail.
        let _ = write!(
            out,
            r#"<rect x="{x:.1}" y="{:.1}" width="{width:.1}" height="{:.1}" fill="{colour}"><title>{}: {} writes</title></rect>"#,
            y + 4.0,
            ROW - 8.0,
            escape(&term.claim),
            term.writes
        );
        if width > 24.0 {
            let _ = write!(
                out,
                r##"<text x="{:.1}" y="{:.1}" fill="#555" font-size="10">{}</text>"##,
                x + 2.0,
                y + 14.0,
                term.number()
            );
        }
    }
    out
}

/// One path a row; its ticks are as fine as the pixels.
fn ticks(writes: &[&Request], pods: &BTreeMap<&str, f64>, scale: &Scale) -> String {
    let mut columns: HashMap<&str, BTreeSet<i64>> = HashMap::new();
    for write in writes {
        if let Some(pod) = writer(write) {
            columns.entry(pod).or_default().insert((scale.x(write.received_us) * 2.0) as i64);
        }
    }
    let mut out = String::new();
    for (pod, y) in pods {
        let mut path = String::new();
        for column in columns.get(pod).into_iter().flatten() {
            let _ = write!(path, "M{:.1} {:.1}v12", *column as f64 / 2.0, y + ROW - 18.0);
        }
        let _ = write!(out, r##"<path d="{path}" stroke="#333" stroke-width="0.5" fill="none"/>"##);
    }
    out
}

fn marks(verdict: &Verdict, pods: &BTreeMap<&str, f64>, scale: &Scale) -> String {
    let mut out = String::new();
    for violation in &verdict.violations {
        let y = pods.get(pod(split(&violation.claim).0)).copied().unwrap_or(TOP);
        let breach: Breach = violation.breach;
        let _ = write!(
            out,
            r#"<rect x="{:.1}" y="{:.1}" width="2" height="{:.1}" fill="red"><title>{breach:?} {} at {}: {}</title></rect>"#,
            scale.x(violation.received_us) - 1.0,
            y + 2.0,
            ROW - 4.0,
            escape(&violation.object),
            violation.revision,
            escape(&violation.detail)
        );
    }
    out
}

fn axis(scale: &Scale, height: f64) -> String {
    let mut out = String::new();
    for tenth in 0..=10 {
        let us = scale.span * f64::from(tenth) / 10.0;
        let x = LEFT + WIDTH * f64::from(tenth) / 10.0;
        let _ = write!(
            out,
            r##"<path d="M{x:.1} {TOP}V{:.1}" stroke="#ccc" stroke-width="0.5"/><text x="{x:.1}" y="{:.1}" text-anchor="middle" fill="#555">{:.1} s</text>"##,
            height - 34.0,
            height - 16.0,
            us / 1e6
        );
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
