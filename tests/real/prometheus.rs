//! The numbers as Prometheus takes them, and the alerts and the dashboard of examples/prometheus over them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::lab::{Curl, Lab, Outcome, Service, free_port, run, run_with_input, wait_until};

fn example(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("examples/prometheus").join(name)
}

/// A push, a pull, a wrong password: what makes most families have numbers.
fn used() -> Lab {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http2");
    curl.push_image("team/app");
    curl.ask_as_user("/v2/team/app/tags/list", &[]);
    curl.ask("/v2/team/app/tags/list", &["--user", "alice:not-the-one"]);
    lab
}

fn fetch(lab: &Lab, url: &str, further: &[&str]) -> String {
    let mut command = lab.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
    run(command.args(further).arg(url)).succeeds()
}

fn promtool(lab: &Lab, words: &[&str]) -> Outcome {
    run(lab.command("promtool").args(words))
}

#[test]
fn promtool_finds_no_fault_with_the_numbers() {
    let lab = used();
    let text = fetch(&lab, &format!("http://{}/metrics", lab.admin()), &[]);
    let file = lab.path("metrics");
    fs::write(&file, &text).unwrap();
    let mut check = lab.command("promtool");
    check.args(["check", "metrics"]);
    let said = run_with_input(&check, File::open(&file).unwrap().into());
    let story = said.story().to_owned();
    said.succeeds();
    assert!(!story.contains("tidegate_"), "{story}");
    for secret in ["team/app", "alice", "127.0.0.1:1"] {
        let labelled = format!("=\"{secret}");
        assert!(!text.contains(&labelled), "{secret} is a label");
    }
}

#[test]
fn the_alerts_come_when_they_are_due() {
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

/// A Prometheus that scrapes the gate with the configuration of the examples.
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

    /// What comes of a query; nothing while it does not answer yet.
    fn ask(&self, query: &str) -> Option<Vec<Value>> {
        let url = format!("http://{}/api/v1/query", self.address);
        let mut command = self.lab.command("curl");
        command.args(["--silent", "--noproxy", "*", "--get", "--data-urlencode"]);
        let outcome = run(command.arg(format!("query={query}")).arg(url));
        if !outcome.is_success() {
            return None;
        }
        let answer: Value = serde_json::from_slice(&outcome.stdout).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned()
    }
}

/// `expr` of every panel, with its variables filled in.
fn dashboard() -> Vec<String> {
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
fn prometheus_scrapes_the_gate_and_every_query_of_the_dashboard_has_an_answer() {
    let lab = used();
    let prometheus = Prometheus::start(&lab);
    wait_until("the gate is scraped twice", || {
        let scraped = "count_over_time(up{job=\"tidegate\"}[1m]) >= 3 and up == 1";
        prometheus
            .ask(scraped)
            .is_some_and(|found| !found.is_empty())
    });
    let queries = dashboard();
    assert!(queries.len() > 25, "{queries:?}");
    for query in queries {
        let found = prometheus.ask(&query).expect("an answer");
        // Nothing has failed here, and what did not happen has no series.
        let may_be_empty = query.contains("status=~\"5..\"");
        assert!(may_be_empty || !found.is_empty(), "nothing for {query}");
        assert!(!query.contains('$'), "{query}");
    }
    let rules = fetch(
        &lab,
        &format!("http://{}/api/v1/rules", prometheus.address),
        &[],
    );
    assert!(!rules.contains("\"health\":\"err\""), "{rules}");
}
