//! The last ten minutes as small plots: SVG in the page, a step for each sample.
//!
//! Called by `page`. Each says in words what it shows: who does not see it, or not its colours, misses nothing.

use std::fmt::Write as _;

use super::figures;
use super::html::Html;
use super::status::Status;
use crate::state::{SAMPLES, Sample};

/// One plot.
struct Chart {
    name: &'static str,
    lines: &'static [ChartSeries],
    is_bytes: bool,
}

/// One line of it.
struct ChartSeries {
    class: &'static str,
    /// What it is, where there are several.
    name: &'static str,
    of: fn(&Sample) -> u64,
}

pub(super) fn write(html: &mut Html, status: &Status) {
    html.tags("<section id=\"minutes\" aria-labelledby=\"minutes-title\" data-live>\n<h2 id=\"minutes-title\">The last 10 minutes</h2>\n<div class=\"plots\">\n");
    for plot in PLOTS {
        figure(html, plot, &status.samples);
    }
    html.tags("</div>\n</section>\n");
}

fn figure(html: &mut Html, plot: &Chart, samples: &[Sample]) {
    let rates: Vec<(&ChartSeries, Vec<f64>)> = plot
        .lines
        .iter()
        .map(|line| (line, rates(line, samples)))
        .collect();
    let all = rates.iter().flat_map(|(_, rates)| rates);
    let peak = all.copied().fold(0.0, f64::max);
    html.tags("<figure><figcaption><span class=\"name\">")
        .tags(plot.name)
        .tags("</span>");
    for (line, rates) in &rates {
        let now = rates.last().copied().unwrap_or_default();
        html.tags("<span class=\"now ");
        html.tags(if now > 0.0 { line.class } else { "none" });
        html.tags("\">").text(plot.shown(now));
        html.tags("<small>").tags(line.name).tags("</small></span>");
    }
    html.tags("</figcaption>\n<svg viewBox=\"0 0 240 48\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    html.tags("<path class=\"grid\" d=\"M0 0.5H240M0 24H240M0 47.5H240M48 0V48M96 0V48M144 0V48M192 0V48\"/>");
    for (line, rates) in &rates {
        let steps = steps(rates, peak);
        html.tags("<path class=\"area ")
            .tags(line.class)
            .tags("\" d=\"");
        html.text(&steps)
            .tags("V47.5H")
            .text(start(rates.len()))
            .tags("Z\"/>");
        html.tags("<path class=\"line ")
            .tags(line.class)
            .tags("\" d=\"")
            .text(&steps)
            .tags("\"/>");
    }
    html.tags("</svg>\n<p class=\"axis\"><span>10\u{a0}min ago</span> <span>at most <b>");
    html.text(plot.shown(peak))
        .tags("</b></span> <span>now</span></p></figure>\n");
}

impl Chart {
    fn shown(&self, rate: f64) -> String {
        if self.is_bytes {
            figures::rate(rate.round() as u64)
        } else {
            figures::frequency(rate)
        }
    }
}

fn rates(line: &ChartSeries, samples: &[Sample]) -> Vec<f64> {
    let rate = |sample: &Sample| {
        let seconds = sample.took.as_secs_f64();
        if seconds > 0.0 {
            (line.of)(sample) as f64 / seconds
        } else {
            0.0
        }
    };
    samples.iter().map(rate).collect()
}

/// A path from the left edge of the oldest to the right edge of the latest.
fn steps(rates: &[f64], peak: f64) -> String {
    let first = start(rates.len());
    let mut path = format!("M{first} 47.5");
    for (at, rate) in rates.iter().enumerate() {
        let height = if peak > 0.0 { rate / peak * 45.0 } else { 0.0 };
        // Writing to a string does not fail.
        let _ = write!(path, "V{:.1}H{}", 47.5 - height, first + WIDTH * (at + 1));
    }
    path
}

fn start(samples: usize) -> usize {
    WIDTH * SAMPLES.saturating_sub(samples)
}

/// Of one sample, in a drawing that is 240 wide.
const WIDTH: usize = 240 / SAMPLES;
const PLOTS: &[Chart] = &[
    Chart {
        name: "From clients",
        lines: &[ChartSeries {
            class: "push",
            name: "",
            of: |sample| sample.sums.received,
        }],
        is_bytes: true,
    },
    Chart {
        name: "To clients",
        lines: &[ChartSeries {
            class: "pull",
            name: "",
            of: |sample| sample.sums.sent,
        }],
        is_bytes: true,
    },
    Chart {
        name: "Requests",
        lines: &[ChartSeries {
            class: "plain",
            name: "",
            of: |sample| sample.sums.requests,
        }],
        is_bytes: false,
    },
    Chart {
        name: "Not served",
        lines: &[
            ChartSeries {
                class: "warn",
                name: " refused",
                of: |sample| sample.sums.rejections,
            },
            ChartSeries {
                class: "bad",
                name: " errors",
                of: |sample| sample.sums.errors,
            },
        ],
        is_bytes: false,
    },
];
