//! The charts of the last ten minutes: inline SVG with one step per sample.
//!
//! Each chart also has its name, its latest value and its maximum as text, for people who do not see the drawing or its
//! colours.

use std::fmt::Write as _;

use super::format;
use super::html::Html;
use crate::state::{SAMPLES, Sample};

struct Chart {
    name: &'static str,
    series: &'static [Series],
    /// The values are bytes, not events.
    is_bytes: bool,
}

/// One line of a chart.
struct Series {
    /// The CSS class, which gives the colour.
    class: &'static str,
    /// The name in the legend of a chart of several series, with a space in front; else empty.
    name: &'static str,
    value: fn(&Sample) -> u64,
}

/// Writes the section with all charts.
pub(crate) fn write(html: &mut Html, samples: &[Sample]) {
    html.tags("<section id=\"minutes\" aria-labelledby=\"minutes-title\" data-live>\n<h2 id=\"minutes-title\">The last 10 minutes</h2>\n<div class=\"plots\">\n");
    for chart in CHARTS {
        figure(html, chart, samples);
    }
    html.tags("</div>\n</section>\n");
}

fn figure(html: &mut Html, chart: &Chart, samples: &[Sample]) {
    let lines: Vec<(&Series, Vec<f64>)> = chart
        .series
        .iter()
        .map(|series| (series, rates(series, samples)))
        .collect();
    let all = lines.iter().flat_map(|(_, rates)| rates);
    let peak = all.copied().fold(0.0, f64::max);
    html.tags("<figure><figcaption><span class=\"name\">")
        .tags(chart.name)
        .tags("</span>");
    for series in chart.series {
        let now = recent_rate(series, samples);
        html.tags("<span class=\"now ");
        html.tags(if now > 0.0 { series.class } else { "none" });
        html.tags("\">");
        if !series.name.is_empty() {
            html.tags("<span class=\"key ")
                .tags(series.class)
                .tags("\"></span>");
        }
        html.text(chart.format(now));
        html.tags("<small>")
            .tags(series.name)
            .tags("</small></span>");
    }
    html.tags("</figcaption>\n<svg viewBox=\"0 0 240 48\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    html.tags("<path class=\"grid\" d=\"M0 0.5H240M0 24H240M0 47.5H240M48 0V48M96 0V48M144 0V48M192 0V48\"/>");
    for (series, rates) in &lines {
        let steps = steps(rates, peak);
        html.tags("<path class=\"area ")
            .tags(series.class)
            .tags("\" d=\"");
        html.text(&steps)
            .tags("V47.5H")
            .text(start(rates.len()))
            .tags("Z\"/>");
        html.tags("<path class=\"line ")
            .tags(series.class)
            .tags("\" d=\"")
            .text(&steps)
            .tags("\"/>");
    }
    html.tags("</svg>\n<p class=\"axis\"><span>10\u{a0}min ago</span> <span>at most <b>");
    html.text(chart.format(peak))
        .tags("</b></span> <span>now</span></p></figure>\n");
}

impl Chart {
    fn format(&self, rate: f64) -> String {
        if self.is_bytes {
            format::rate(rate.round() as u64)
        } else {
            format::frequency(rate)
        }
    }
}

/// The value of each sample per second.
fn rates(series: &Series, samples: &[Sample]) -> Vec<f64> {
    let rate = |sample: &Sample| {
        let seconds = sample.took.as_secs_f64();
        if seconds > 0.0 {
            (series.value)(sample) as f64 / seconds
        } else {
            0.0
        }
    };
    samples.iter().map(rate).collect()
}

/// The value per second, averaged over the last half minute as the rate of a transfer is.
fn recent_rate(series: &Series, samples: &[Sample]) -> f64 {
    let recent = || samples.iter().rev().take(RECENT_SAMPLES);
    let took: f64 = recent().map(|sample| sample.took.as_secs_f64()).sum();
    let sum: u64 = recent().map(series.value).sum();
    if took > 0.0 { sum as f64 / took } else { 0.0 }
}

/// An SVG path from the left edge of the oldest sample to the right edge of the latest.
fn steps(rates: &[f64], peak: f64) -> String {
    let first = start(rates.len());
    let mut path = format!("M{first} 47.5");
    for (at, rate) in rates.iter().enumerate() {
        let height = if peak > 0.0 { rate / peak * 45.0 } else { 0.0 };
        // Writing to a string does not fail.
        let _ = write!(
            path,
            "V{:.1}H{}",
            47.5 - height,
            first + SAMPLE_WIDTH * (at + 1)
        );
    }
    path
}

/// The left edge of the oldest sample. While there are fewer than [`SAMPLES`], the chart is filled from the right.
fn start(samples: usize) -> usize {
    SAMPLE_WIDTH * SAMPLES.saturating_sub(samples)
}

/// The width of one sample. A chart is 240 units wide.
const SAMPLE_WIDTH: usize = 240 / SAMPLES;
/// The number of samples of half a minute.
const RECENT_SAMPLES: usize = 6;
const CHARTS: &[Chart] = &[
    Chart {
        name: "From clients",
        series: &[Series {
            class: "push",
            name: "",
            value: |sample| sample.sums.received,
        }],
        is_bytes: true,
    },
    Chart {
        name: "To clients",
        series: &[Series {
            class: "pull",
            name: "",
            value: |sample| sample.sums.sent,
        }],
        is_bytes: true,
    },
    Chart {
        name: "Requests",
        series: &[Series {
            class: "plain",
            name: "",
            value: |sample| sample.sums.requests,
        }],
        is_bytes: false,
    },
    Chart {
        name: "Not served",
        series: &[
            Series {
                class: "warn",
                name: " rejected",
                value: |sample| sample.sums.rejections,
            },
            Series {
                class: "bad",
                name: " errors",
                value: |sample| sample.sums.errors,
            },
        ],
        is_bytes: false,
    },
];
