//! The text exposition of metrics, in OpenMetrics or in the older text format of Prometheus.
//!
//! Called by `admin`. `prometheus-client` writes OpenMetrics, which Prometheus asks for. Everything else that reads
//! `/metrics` (curl, promtool, agents) understands the older format, which differs in the `# HELP` and `# TYPE` lines
//! of counters, and has no `# EOF`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::site::Buckets;

/// The samples with one metric name.
#[derive(Clone, Debug)]
pub struct Family {
    /// The metric name, without the `_total` of a counter.
    pub name: &'static str,
    /// The help text, one sentence.
    pub help: &'static str,
    /// The type of the metric.
    pub kind: Kind,
    /// The labels and the value of each sample.
    pub samples: Vec<(Vec<(&'static str, String)>, Value)>,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that rises and falls.
    Gauge,
    /// Values counted in buckets.
    Histogram,
}

/// The value of a sample.
#[derive(Clone, Debug)]
pub enum Value {
    /// An integer.
    Whole(u64),
    /// A number with a fraction.
    Real(f64),
    /// The buckets of a histogram.
    Buckets(Buckets),
}

/// The text format of an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Prometheus,
}

impl ExpositionFormat {
    /// The format for a client with this `Accept` field.
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The media type of the format.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes all families as text.
///
/// # Errors
/// The encoder reports an error of the writer. Writing to a string does not fail.
pub fn write(families: Vec<Family>, format: ExpositionFormat) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(match format {
        ExpositionFormat::OpenMetrics => text,
        ExpositionFormat::Prometheus => text_0_0_4(&text),
    })
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (labels, value) in &family.samples {
                // `encode_family` would write a sample without labels as `name{}`.
                if labels.is_empty() {
                    encode(&mut metric, family.kind, value)?;
                } else {
                    encode(&mut metric.encode_family(labels)?, family.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(sample: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (value, kind) {
        (Value::Buckets(buckets), _) => {
            let (sum, count) = (buckets.sum, buckets.count());
            sample.encode_histogram::<NoLabelSet>(sum, count, &buckets.counts, None)
        }
        (Value::Whole(value), Kind::Counter) => {
            sample.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        (Value::Real(value), Kind::Counter) => {
            sample.encode_counter::<NoLabelSet, _, u64>(value, None)
        }
        (Value::Whole(value), _) => sample.encode_gauge(value),
        (Value::Real(value), _) => sample.encode_gauge(value),
    }
}

/// Converts OpenMetrics to text 0.0.4, in which the name of a counter ends with `_total` like its samples, and which
/// has no end mark.
fn text_0_0_4(text: &str) -> String {
    let counters: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut converted = String::with_capacity(text.len());
    for line in text.lines() {
        let described = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|start| Some((start, line.strip_prefix(start)?.split_once(' ')?)));
        match described {
            Some((start, (name, rest))) if counters.contains(&name) => {
                converted.extend([start, name, "_total ", rest, "\n"]);
            }
            _ if line == "# EOF" => {}
            _ => converted.extend([line, "\n"]),
        }
    }
    converted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let buckets = Buckets {
            counts: vec![(0.5, 2), (f64::INFINITY, 1)],
            sum: 9.5,
        };
        let family = |name, kind, labels, value| Family {
            name,
            help: "The help text.",
            kind,
            samples: vec![(labels, value)],
        };
        let site = vec![("site", "a\"b\\c\nd".to_owned())];
        vec![
            family("x", Kind::Counter, site, Value::Whole(3)),
            family("y", Kind::Gauge, Vec::new(), Value::Real(0.5)),
            family(
                "z_seconds",
                Kind::Histogram,
                Vec::new(),
                Value::Buckets(buckets),
            ),
        ]
    }

    #[test]
    fn write_follows_the_specification_of_each_format() {
        let sample = "x_total{site=\"a\\\"b\\\\c\\nd\"} 3\n";
        let rest = "# HELP y The help text.\n# TYPE y gauge\ny 0.5\n\
                    # HELP z_seconds The help text.\n# TYPE z_seconds histogram\nz_seconds_sum 9.5\nz_seconds_count 3\n\
                    z_seconds_bucket{le=\"0.5\"} 2\nz_seconds_bucket{le=\"+Inf\"} 3\n";
        let open = write(
            families(),
            ExpositionFormat::of("application/openmetrics-text;q=0.5"),
        )
        .unwrap();
        let head = "# HELP x The help text.\n# TYPE x counter\n";
        assert_eq!(open, format!("{head}{sample}{rest}# EOF\n"));
        let prometheus = write(families(), ExpositionFormat::of("*/*")).unwrap();
        let head = "# HELP x_total The help text.\n# TYPE x_total counter\n";
        assert_eq!(prometheus, format!("{head}{sample}{rest}"));
    }
}
