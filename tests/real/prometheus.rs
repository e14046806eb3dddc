//! The metrics, checked by promtool and scraped by Prometheus, and the alerts and the dashboard of `examples/prometheus`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Curl, Lab, Outcome, Service, free_port, run, run_with_input, wait_until};

fn example(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("examples/prometheus").join(name)
}

/// Starts a lab and sends a push, a pull and a wrong password, so that most metric families have series.
fn lab_with_traffic() -> Lab {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http2");
    curl.push_image("team/app");
    curl.request_as_user("/v2/team/app/tags/list", &[]);
    curl.request("/v2/team/app/tags/list", &["--user", "alice:not-the-one"]);
    lab
}

fn fetch(lab: &Lab, url: &str, options: &[&str]) -> String {
    let mut command = lab.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
    run(command.args(options).arg(url)).succeeds()
}

fn promtool(lab: &Lab, arguments: &[&str]) -> Outcome {
    run(lab.command("promtool").args(arguments))
}

#[test]
fn promtool_accepts_the_metrics() {
    let lab = lab_with_traffic();
    let text = fetch(&lab, &format!("http://{}/metrics", lab.admin()), &[]);
    let file = lab.path("metrics");
    fs::write(&file, &text).unwrap();
    let mut check = lab.command("promtool");
    check.args(["check", "metrics"]);
    let outcome = run_with_input(&check, File::open(&file).unwrap().into());
    let story = outcome.story().to_owned();
    outcome.succeeds();
    assert!(!story.contains("tidegate_"), "{story}");
    for secret in ["team/app", "alice", "127.0.0.1:1"] {
        let label = format!("=\"{secret}");
        assert!(!text.contains(&label), "{secret} is a label");
    }
}

#[test]
fn each_alert_fires_when_it_is_due() {
    let lab = Lab::start();
    let alerts = example("alerts.yml");
    let alerts = alerts.to_str().unwrap();
    promtool(&lab, &["check", "rules", "--lint-fatal", alerts]).succeeds();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("tests/real/prometheus/alerts.yml")).unwrap();
    for line in fs::read_to_string(alerts).unwrap().lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            assert!(text.contains(&format!("alertname: {name}\n")), "{name}");
        }
    }
    let file = lab.path("alerts-test.yml");
    fs::write(&file, text.replace("- ALERTS", &format!("- {alerts}"))).unwrap();
    promtool(&lab, &["test", "rules", file.to_str().unwrap()]).succeeds();
}

/// A Prometheus server that scrapes the proxy with the configuration of the examples.
struct Prometheus<'a> {
    lab: &'a Lab,
    address: String,
    _service: Service,
}

impl<'a> Prometheus<'a> {
    fn start(lab: &'a Lab) -> Self {
        let config = fs::read_to_string(example("prometheus.yml")).unwrap();
        let config = config
            .replace("127.0.0.1:9090", &lab.admin())
            .replace("15s", "1s")
            .replace(
                "alerts.yml\n",
                &format!("{}\n", example("alerts.yml").display()),
            );
        assert!(config.contains(&lab.admin()), "{config}");
        let file = lab.path("prometheus.yml");
        fs::write(&file, config).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = lab.command("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                lab.path("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"));
        let service = Service::start("prometheus", &command, lab.path("").as_path());
        Self {
            lab,
            address,
            _service: service,
        }
    }

    /// The result of a query, or `None` while Prometheus does not respond yet.
    fn query(&self, query: &str) -> Option<Vec<Value>> {
        let url = format!("http://{}/api/v1/query", self.address);
        let mut command = self.lab.command("curl");
        command.args(["--silent", "--noproxy", "*", "--get", "--data-urlencode"]);
        let outcome = run(command.arg(format!("query={query}")).arg(url));
        if !outcome.is_success() {
            return None;
        }
        let response: Value = serde_json::from_slice(&outcome.stdout).ok()?;
        assert_eq!(response["status"], "success", "{query}: {response}");
        response["data"]["result"].as_array().cloned()
    }
}

/// The queries of every panel of the dashboard, with values in place of the variables.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(example("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    let all = targets.flatten().map(|target| {
        let query = target["expr"].as_str().unwrap();
        query
            .replace("$job", "tidegate")
            .replace("$instance", ".*")
            .replace("$__rate_interval", "1m")
    });
    all.collect()
}

#[test]
fn every_query_of_the_dashboard_has_a_result() {
    let lab = lab_with_traffic();
    let prometheus = Prometheus::start(&lab);
    wait_until("the proxy is scraped three times", || {
        let scraped = "count_over_time(up{job=\"tidegate\"}[1m]) >= 3 and up == 1";
        prometheus
            .query(scraped)
            .is_some_and(|found| !found.is_empty())
    });
    let queries = dashboard_queries();
    assert!(queries.len() > 25, "{queries:?}");
    for query in queries {
        let found = prometheus.query(&query).expect("Prometheus responds");
        // No request failed with a 5xx status, so that there is no series for it.
        let may_be_empty = query.contains("status=~\"5..\"");
        assert!(may_be_empty || !found.is_empty(), "no result for {query}");
        assert!(!query.contains('$'), "{query}");
    }
    let rules = fetch(
        &lab,
        &format!("http://{}/api/v1/rules", prometheus.address),
        &[],
    );
    assert!(!rules.contains("\"health\":\"err\""), "{rules}");
}
