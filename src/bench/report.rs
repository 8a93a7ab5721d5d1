//! A page with the figures of a bench that a person can send: one file, with nothing that it loads.

use std::fmt::Write;

use serde_json::Value;

const STYLE: &str = include_str!("report.css");
/// Width of the longest bar.
const BAR: f64 = 360.0;
/// Kernels that are shown.
const MOST_KERNELS: usize = 24;

/// The page of a bench's figures.
pub fn html(figures: &Value) -> String {
    let text = |key: &str| escaped(figures[key].as_str().unwrap_or("?"));
    let title = format!("qllama on {}", text("adapter"));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n<main>\n<h1>{title}</h1>\n"
    );
    let _ = writeln!(page, "<p>{} · {} · qllama {}</p>", text("backend"), text("model"), env!("CARGO_PKG_VERSION"));
    summary(&mut page, figures);
    steps(&mut page, figures);
    kernels(&mut page, figures);
    let json = escaped(&serde_json::to_string_pretty(figures).unwrap_or_default());
    let _ =
        writeln!(page, "<details><summary>All figures, as JSON</summary><pre>{json}</pre></details>\n</main>\n</html>");
    page
}

fn summary(page: &mut String, figures: &Value) {
    let number = |key: &str| figures[key].as_f64();
    let giga = |key: &str, unit: &str| number(key).map(|n| format!("{} {unit}", short(n / 1e9)));
    let plain = |key: &str, unit: &str| number(key).map(|n| format!("{} {unit}", short(n)));
    let rows = figures["prefill_rows"].as_u64().unwrap_or(0);
    let all = [
        ("Loading".into(), plain("load_seconds", "s")),
        ("First word, from the program's start".into(), plain("first_word_seconds", "s")),
        ("Vision, a picture".into(), plain("vision_seconds", "s").filter(|_| figures["has_vision"] == true)),
        (format!("Prefill of {rows} rows"), plain("prefill_rows_per_second", "rows/s")),
        ("Decode behind them".into(), plain("decode_tokens_per_second", "tokens/s")),
        ("Dispatches a token".into(), figures["dispatches_per_token"].as_u64().map(|n| n.to_string())),
        ("Weights read a token".into(), giga("weight_bytes_per_token", "GB")),
        ("GPU memory at most".into(), giga("gpu_bytes_peak", "GB")),
        ("Roof: reading".into(), giga("roof_read_bytes_per_second", "GB/s")),
        ("Roof: arithmetic".into(), giga("roof_multiply_adds_per_second", "G multiply-adds/s")),
    ];
    page.push_str("<h2>In short</h2>\n<table>\n");
    for (name, value) in all {
        if let Some(value) = value {
            let _ = writeln!(page, "<tr><th>{name}</th><td>{value}</td></tr>");
        }
    }
    page.push_str("</table>\n");
}

fn steps(page: &mut String, figures: &Value) {
    let all = figures["steps"].as_array().map_or(&[][..], Vec::as_slice);
    page.push_str(
        "<h2>Tokens a second</h2>\n<table>\n<tr><th>Context</th><th>Beams</th><th>Steps a second</th><td></td></tr>\n",
    );
    let rate = |step: &Value| step["steps_per_second"].as_f64().unwrap_or(0.0);
    let most = all.iter().map(rate).fold(f64::MIN_POSITIVE, f64::max);
    for step in all {
        let _ = writeln!(
            page,
            "<tr><td>{} rows</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            step["rows"],
            step["beams"],
            short(rate(step)),
            bar(rate(step) / most, if step["beams"] == 1 { "one" } else { "many" })
        );
    }
    page.push_str("</table>\n");
}

fn kernels(page: &mut String, figures: &Value) {
    let all = figures["kernels"].as_array().map_or(&[][..], Vec::as_slice);
    let milliseconds = |value: &Value| short(value.as_f64().unwrap_or(0.0) * 1e3);
    let _ = writeln!(
        page,
        "<h2>Kernels of a step</h2>\n<p>Behind {} rows; each kernel's calls are played alone, longest first. The whole \
         step takes {} ms. A bar is the share of the time; the dark part of it is what the nearer roof, reading or \
         arithmetic, would take.</p>\n<table>\n<tr><th>Kernel</th><th>Shapes</th><th>Calls</th><th>ms</th>\
         <th>GB/s</th><th>G multiply-adds/s</th><th>% of roof</th><td></td></tr>",
        figures["kernel_rows"],
        milliseconds(&figures["kernel_step_seconds"])
    );
    let share = |line: &Value| line["share"].as_f64().unwrap_or(0.0);
    let most = all.iter().map(share).fold(f64::MIN_POSITIVE, f64::max);
    for line in all.iter().take(MOST_KERNELS) {
        let number = |key: &str| line[key].as_f64().unwrap_or(0.0);
        let seconds = number("seconds").max(1e-12);
        let at_roof = number("share_of_roof");
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escaped(line["kernel"].as_str().unwrap_or("?")),
            escaped(line["shape"].as_str().unwrap_or("?")),
            line["dispatches"],
            milliseconds(&line["seconds"]),
            short(number("bytes") / seconds / 1e9),
            short(number("multiply_adds") / seconds / 1e9),
            short(100.0 * at_roof),
            two_bars(share(line) / most, share(line) / most * at_roof.min(1.0))
        );
    }
    page.push_str("</table>\n");
}

fn bar(share: f64, class: &str) -> String {
    let width = BAR * share.clamp(0.0, 1.0);
    format!("<svg width=\"{BAR}\" height=\"14\"><rect class=\"{class}\" width=\"{width:.1}\" height=\"14\"/></svg>")
}

fn two_bars(share: f64, inner: f64) -> String {
    let (wide, inner) = (BAR * share.clamp(0.0, 1.0), BAR * inner.clamp(0.0, 1.0));
    format!(
        "<svg width=\"{BAR}\" height=\"14\"><rect class=\"one\" width=\"{wide:.1}\" height=\"14\"/><rect class=\"roof\" \
         width=\"{inner:.1}\" height=\"14\"/></svg>"
    )
}

/// Three digits that count.
fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => format!("{number:.1}"),
        n if n >= 1.0 => format!("{number:.2}"),
        n if n >= 0.001 || n == 0.0 => format!("{number:.3}"),
        _ => format!("{number:.1e}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_every_figure_and_loads_nothing() {
        let figures = serde_json::json!({
            "adapter": "A <b>GPU</b>", "backend": "Vulkan", "model": "m", "load_seconds": 1.25, "prefill_rows": 99,
            "roof_read_bytes_per_second": 4e11, "kernel_rows": 512, "kernel_step_seconds": 0.0123,
            "steps": [{ "rows": 16, "beams": 5, "seconds": 0.05, "steps_per_second": 20.0 }],
            "kernels": [{
                "kernel": "linear_tile", "shape": "[1, 9]", "dispatches": 32, "seconds": 0.001, "share": 0.5,
                "bytes": 2_000_000, "multiply_adds": 4_000_000, "share_of_roof": 0.25
            }]
        });
        let page = html(&figures);
        for wanted in ["A &lt;b&gt;GPU&lt;/b&gt;", "1.25 s", "400 GB/s", "20.0", "linear_tile", "25.0", "12.3 ms"] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
        for not in ["<b>", "http", "src=", "url(", "<script"] {
            assert!(!page.contains(not), "{not}");
        }
    }
}
