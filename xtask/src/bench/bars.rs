//! Pictures of amounts: one bar each, from zero. Beside [`picture`](super::picture), which draws times.

use std::fmt::Write as _;

/// One amount.
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
}

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 140.0;
const TOP: f64 = 44.0;
const ROW: f64 = 30.0;

/// The picture of some amounts in one unit.
pub(crate) fn bars(title: &str, unit: &str, rows: &[Bar]) -> String {
    let most = rows.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let height = TOP + ROW * rows.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    for (index, bar) in rows.iter().enumerate() {
        let (y, width) = (TOP + ROW * index as f64, bar.value.max(0.0) / most * (WIDTH - LEFT - RIGHT));
        // Writing to a String cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"24\" y=\"{:.1}\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"18\" fill=\"#36c\" fill-opacity=\"0.7\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.0} {unit}</text>",
            y + 18.0,
            escaped(&bar.label),
            y + 4.0,
            LEFT + width + 8.0,
            y + 18.0,
            bar.value,
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_bar_fills_the_width_and_text_is_escaped() {
        let bar = |label: &str, value| Bar { label: label.to_owned(), value };
        let svg = bars("a<b", "bytes", &[bar("x & y", 50.0), bar("z", 100.0)]);
        assert!(svg.contains("a&lt;b") && svg.contains("x &amp; y") && svg.contains(">50 bytes<"));
        assert!(svg.contains("width=\"560.0\"") && svg.contains("width=\"280.0\""));
    }
}
