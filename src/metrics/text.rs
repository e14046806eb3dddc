//! The exposition: families of numbers as text, in OpenMetrics or in Prometheus's own older form.
//!
//! Called by `admin`. `prometheus-client` writes OpenMetrics, which Prometheus asks for; everything else that reads
//! `/metrics` (curl, promtool, agents) is sure to know the older form, which differs in four kinds of lines.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::site::Buckets;

/// Numbers with one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without the `_total` of a counter.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// What kind of numbers they are.
    pub kind: Kind,
    /// Labels and values.
    pub samples: Vec<(Vec<(&'static str, String)>, Value)>,
}

/// What may be done with the numbers of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They only grow.
    Counter,
    /// They rise and fall.
    Gauge,
    /// They are spread over buckets.
    Histogram,
}

/// One number.
#[derive(Clone, Debug)]
pub enum Value {
    /// Whole.
    Whole(u64),
    /// With a fraction.
    Real(f64),
    /// Of a histogram.
    Spread(Buckets),
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Prometheus,
}

impl ExpositionFormat {
    /// The one for a client that accepts this.
    pub fn of(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All families as text.
///
/// # Errors
/// Never for a string, whose writing does not fail.
pub fn write(families: Vec<Family>, form: ExpositionFormat) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(match form {
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
                // Without labels a family of none would be written as `name{}`.
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
        (Value::Spread(spread), _) => {
            let (sum, count) = (spread.sum, spread.count());
            sample.encode_histogram::<NoLabelSet>(sum, count, &spread.counts, None)
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

/// A counter is called as its samples are, there are no units, and the end is not marked.
fn text_0_0_4(text: &str) -> String {
    let counters: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut older = String::with_capacity(text.len());
    for line in text.lines() {
        let described = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|start| Some((start, line.strip_prefix(start)?.split_once(' ')?)));
        match described {
            Some((start, (name, rest))) if counters.contains(&name) => {
                older.extend([start, name, "_total ", rest, "\n"]);
            }
            _ if line == "# EOF" => {}
            _ => older.extend([line, "\n"]),
        }
    }
    older
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let spread = Buckets {
            counts: vec![(0.5, 2), (f64::INFINITY, 1)],
            sum: 9.5,
        };
        let family = |name, kind, labels, value| Family {
            name,
            help: "What it says.",
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
                Value::Spread(spread),
            ),
        ]
    }

    #[test]
    fn both_forms_are_as_their_specifications_have_them() {
        let sample = "x_total{site=\"a\\\"b\\\\c\\nd\"} 3\n";
        let rest = "# HELP y What it says.\n# TYPE y gauge\ny 0.5\n\
                    # HELP z_seconds What it says.\n# TYPE z_seconds histogram\nz_seconds_sum 9.5\nz_seconds_count 3\n\
                    z_seconds_bucket{le=\"0.5\"} 2\nz_seconds_bucket{le=\"+Inf\"} 3\n";
        let open = write(
            families(),
            ExpositionFormat::of("application/openmetrics-text;q=0.5"),
        )
        .unwrap();
        let head = "# HELP x What it says.\n# TYPE x counter\n";
        assert_eq!(open, format!("{head}{sample}{rest}# EOF\n"));
        let older = write(families(), ExpositionFormat::of("*/*")).unwrap();
        let head = "# HELP x_total What it says.\n# TYPE x_total counter\n";
        assert_eq!(older, format!("{head}{sample}{rest}"));
    }
}
