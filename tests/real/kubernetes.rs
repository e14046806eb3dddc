//! `examples/kubernetes`, as `kubectl kustomize` renders the base and the overlays: every object is valid for several versions
//! of Kubernetes, the objects fit together, and the proxy accepts its configuration with the files of its volume.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{Certs, command, installed, run, run_with_input};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes");
const VALIDATE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/real/kubernetes/validate.py"
);
/// The oldest version that `kubernetes-validate` has schemas of, the newest, and two in between.
const VERSIONS: [&str; 4] = ["1.25", "1.29", "1.33", "1.37"];
/// The files that an operator makes. The certificate becomes a Secret without kustomize.
const MADE: [&str; 3] = ["htpasswd", "token-secret", "http-secret"];
const TLS_SECRET: &str = "tidegate-tls";
const NAME: &str = "app.kubernetes.io/name";

#[test]
fn the_base_is_valid_and_complete() {
    let example = Example::render("base");
    example.assert_complete();
    let service = example.object("Service", "tidegate");
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
    assert_eq!(example.files_of_the_proxy().len(), 5);
}

#[test]
fn the_overlay_for_an_ingress_is_valid_and_complete() {
    let example = Example::render("overlays/ingress");
    example.assert_complete();
    let service = example.object("Service", "tidegate");
    assert_eq!(service["spec"]["type"], "ClusterIP");
    assert_eq!(service["spec"]["externalTrafficPolicy"], Value::Null);
    let backend =
        &example.object("Ingress", "tidegate")["spec"]["rules"][0]["http"]["paths"][0]["backend"];
    assert_eq!(backend["service"]["name"], "tidegate");
    assert_eq!(
        backend["service"]["port"]["name"],
        service["spec"]["ports"][0]["name"]
    );
    // A pod that is not the ingress controller could claim any client.
    for rule in array(&example.object("NetworkPolicy", "tidegate")["spec"]["ingress"]) {
        assert!(rule["from"].is_array(), "{rule}");
    }
    assert!(!example.files_of_the_proxy().contains(&"tls.key".to_owned()));
}

#[test]
fn the_overlay_for_acme_is_valid_and_complete() {
    let example = Example::render("overlays/acme");
    example.assert_complete();
    let state = example.object("PersistentVolumeClaim", "tidegate-state");
    assert_eq!(state["spec"]["accessModes"][0], "ReadWriteMany");
    let volumes = array(&example.pod("Deployment", "tidegate")["volumes"]);
    let volume = volumes
        .iter()
        .find(|volume| volume["name"] == "state")
        .unwrap();
    assert_eq!(
        volume["persistentVolumeClaim"]["claimName"],
        "tidegate-state"
    );
    assert_eq!(volume["emptyDir"], Value::Null);
    assert!(!example.files_of_the_proxy().contains(&"tls.key".to_owned()));
}

/// The objects of the base or of an overlay.
struct Example {
    dir: TempDir,
    objects: Vec<Value>,
}

impl Example {
    /// Renders a copy of the example in which the operator's files are made, and validates the objects.
    fn render(name: &str) -> Self {
        let dir = TempDir::with_prefix("kubernetes-").unwrap();
        let root = dir.path().join("kubernetes");
        run(Command::new("cp").args(["-r", EXAMPLE]).arg(&root)).succeeds();
        let mut htpasswd = command("htpasswd", dir.path());
        run(htpasswd
            .arg("-Bbc")
            .arg(root.join("base/htpasswd"))
            .args(["alice", "pw"]))
        .succeeds();
        for secret in &MADE[1..] {
            fs::write(
                root.join("base").join(secret),
                "a-secret-of-more-than-32-characters\n",
            )
            .unwrap();
        }
        let mut kubectl = command("kubectl", dir.path());
        let rendered = run(kubectl.arg("kustomize").arg(root.join(name)));
        assert!(
            !rendered.story().contains("must resolve to a file"),
            "kubectl 1.22 or later is needed, in which kustomize takes folders as resources"
        );
        assert!(
            !rendered.story().contains("deprecated"),
            "{}",
            rendered.story()
        );
        let file = dir.path().join("objects.yaml");
        fs::write(&file, rendered.succeeds()).unwrap();
        let mut validate = command(&installed("python"), dir.path());
        validate.arg(VALIDATE).args(VERSIONS);
        let objects = run_with_input(&validate, File::open(file).unwrap().into()).succeeds();
        let objects = serde_json::from_str(&objects).unwrap();
        Self { dir, objects }
    }

    #[track_caller]
    fn object(&self, kind: &str, name: &str) -> &Value {
        let mut all = self.of_kind(kind);
        let found = all.find(|object| object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |object| object["kind"] == kind)
    }

    /// The pod template of a workload.
    fn pod(&self, kind: &str, name: &str) -> &Value {
        &self.object(kind, name)["spec"]["template"]["spec"]
    }

    /// Every workload with its pod template.
    fn templates(&self) -> Vec<&Value> {
        let workloads = self
            .of_kind("Deployment")
            .chain(self.of_kind("StatefulSet"));
        workloads
            .map(|workload| &workload["spec"]["template"])
            .collect()
    }

    fn assert_complete(&self) {
        for object in &self.objects {
            if object["kind"] != "Namespace" {
                assert_eq!(object["metadata"]["namespace"], "registry", "{object}");
            }
        }
        for template in self.templates() {
            self.assert_volumes_exist(&template["spec"]);
            assert_restricted(&template["spec"]);
        }
        self.assert_selectors_match();
        self.assert_rights_of_networks();
        self.assert_the_proxy_has_time_to_drain();
        self.assert_the_proxy_accepts_its_configuration();
    }

    /// Every mount has a volume, and every ConfigMap and Secret of a volume is an object of the example.
    fn assert_volumes_exist(&self, pod: &Value) {
        let volumes = array(&pod["volumes"]);
        for mount in array(&pod["containers"][0]["volumeMounts"]) {
            let is_there = volumes.iter().any(|volume| volume["name"] == mount["name"]);
            // The volume of a StatefulSet is made from a template.
            assert!(is_there || mount["name"] == "layers", "{mount}");
        }
        for source in volumes
            .iter()
            .flat_map(|volume| array(&volume["projected"]["sources"]))
        {
            if let Some(name) = source["configMap"]["name"].as_str() {
                self.object("ConfigMap", name);
            } else if source["secret"]["name"] != TLS_SECRET {
                self.object("Secret", source["secret"]["name"].as_str().unwrap());
            }
        }
        for variable in array(&pod["containers"][0]["env"]) {
            if let Some(reference) = variable["valueFrom"].get("secretKeyRef") {
                let secret = self.object("Secret", reference["name"].as_str().unwrap());
                assert!(
                    secret["data"]
                        .get(reference["key"].as_str().unwrap())
                        .is_some()
                );
            }
        }
    }

    /// Every Service leads to a named port of pods, and every other selector selects pods or Services.
    fn assert_selectors_match(&self) {
        for service in self.of_kind("Service") {
            let templates = self.templates();
            let mut selected = templates.iter().filter(|template| {
                is_subset(
                    &service["spec"]["selector"],
                    &template["metadata"]["labels"],
                )
            });
            let pod = &selected.next().unwrap_or_else(|| panic!("{service}"))["spec"];
            let ports = array(&pod["containers"][0]["ports"]);
            for port in array(&service["spec"]["ports"]) {
                let mut names = ports.iter().map(|port| &port["name"]);
                assert!(names.any(|name| *name == port["targetPort"]), "{port}");
            }
        }
        let monitor = self.object("ServiceMonitor", "tidegate");
        let watched: Vec<_> = self
            .of_kind("Service")
            .filter(|service| {
                is_subset(
                    &monitor["spec"]["selector"]["matchLabels"],
                    &service["metadata"]["labels"],
                )
            })
            .collect();
        assert_eq!(watched.len(), 1, "{watched:?}");
        assert_eq!(
            watched[0]["spec"]["ports"][0]["name"],
            monitor["spec"]["endpoints"][0]["port"]
        );
        assert_eq!(monitor["spec"]["endpoints"][0]["path"], "/metrics");
        let labels =
            &self.object("Deployment", "tidegate")["spec"]["template"]["metadata"]["labels"];
        let budget = self.object("PodDisruptionBudget", "tidegate");
        assert!(is_subset(
            &budget["spec"]["selector"]["matchLabels"],
            labels
        ));
        let scaler = self.object("HorizontalPodAutoscaler", "tidegate");
        assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "tidegate");
        assert!(scaler["spec"]["minReplicas"].as_u64() >= Some(3));
    }

    /// Only the proxies reach the registry, and the proxies reach nothing that the policy does not name.
    fn assert_rights_of_networks(&self) {
        let policy = self.object("NetworkPolicy", "registry");
        let labels =
            &self.object("StatefulSet", "registry")["spec"]["template"]["metadata"]["labels"];
        assert!(is_subset(
            &policy["spec"]["podSelector"]["matchLabels"],
            labels
        ));
        let rules = array(&policy["spec"]["ingress"]);
        assert_eq!((rules.len(), array(&rules[0]["from"]).len()), (1, 1));
        assert_eq!(
            rules[0]["from"][0]["podSelector"]["matchLabels"][NAME],
            "tidegate"
        );
        assert_eq!(rules[0]["from"][0].get("namespaceSelector"), None);
        let policy = self.object("NetworkPolicy", "tidegate");
        assert_eq!(array(&policy["spec"]["policyTypes"]).len(), 2);
        // Every port of the proxy is named in a rule.
        let rules = policy["spec"]["ingress"].to_string();
        for port in array(&self.pod("Deployment", "tidegate")["containers"][0]["ports"]) {
            assert!(
                rules.contains(&format!("\"port\":{}", port["name"])),
                "{port}: {rules}"
            );
        }
    }

    /// Kubernetes waits longer than the proxy delays and drains.
    fn assert_the_proxy_has_time_to_drain(&self) {
        let config = self.config();
        for line in ["drain_delay = \"15s\"", "drain = \"5m\""] {
            assert!(config.contains(line), "{config}");
        }
        let grace = &self.pod("Deployment", "tidegate")["terminationGracePeriodSeconds"];
        assert!(grace.as_u64() > Some(15 + 300), "{grace}");
    }

    /// The ConfigMap that the Deployment names.
    fn config(&self) -> &str {
        let sources = &self.pod("Deployment", "tidegate")["volumes"][0]["projected"]["sources"];
        let name = sources[0]["configMap"]["name"].as_str().unwrap();
        let config = self.object("ConfigMap", name);
        config["data"]["proxy.toml"].as_str().unwrap()
    }

    /// The names of the files in the volume `config`.
    fn files_of_the_proxy(&self) -> Vec<String> {
        let sources = &self.pod("Deployment", "tidegate")["volumes"][0]["projected"]["sources"];
        let mut files = Vec::new();
        for source in array(sources) {
            let (kind, name) = match source["configMap"]["name"].as_str() {
                Some(name) => ("ConfigMap", name),
                None => ("Secret", source["secret"]["name"].as_str().unwrap()),
            };
            if name == TLS_SECRET {
                files.extend(["tls.crt", "tls.key"].map(str::to_owned));
            } else {
                let data = self.object(kind, name)["data"].as_object().unwrap();
                files.extend(data.keys().cloned());
            }
        }
        files
    }

    fn assert_the_proxy_accepts_its_configuration(&self) {
        let (volume, state) = (
            self.dir.path().join("volume"),
            self.dir.path().join("state"),
        );
        fs::create_dir(&volume).unwrap();
        fs::create_dir(&state).unwrap();
        let certs = Certs::make(&self.dir.path().join("certs"));
        let base = self.dir.path().join("kubernetes/base");
        for file in self.files_of_the_proxy() {
            let source: PathBuf = match file.as_str() {
                "proxy.toml" => continue,
                "tls.crt" => certs.cert(),
                "tls.key" => certs.key(),
                made => base.join(made),
            };
            fs::copy(source, volume.join(file)).unwrap();
        }
        let text = self
            .config()
            .replace("/var/lib/tidegate", state.to_str().unwrap());
        let file = volume.join("proxy.toml");
        fs::write(&file, text).unwrap();
        let mut check = command(env!("CARGO_BIN_EXE_tidegate"), self.dir.path());
        check.env("STATE_DIRECTORY", &state);
        let said = run(check.args(["check", "-c"]).arg(&file)).succeeds();
        assert!(said.contains("the configuration"), "{said}");
        // The proxy listens on the ports of its container, and on no other.
        let ports = array(&self.pod("Deployment", "tidegate")["containers"][0]["ports"]);
        for port in &ports {
            let address = format!("[::]:{}\"", port["containerPort"]);
            assert!(self.config().contains(&address), "{address}");
        }
        assert_eq!(self.config().matches("\"[::]:").count(), ports.len());
    }
}

/// The profile "restricted" of the Pod Security Standards, which the namespace enforces, and what it does not ask for.
fn assert_restricted(pod: &Value) {
    let context = &pod["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    for container in array(&pod["containers"]) {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"][0], "ALL");
        assert!(container["resources"]["limits"]["memory"].is_string());
        assert!(container["readinessProbe"].is_object());
    }
}

/// The elements of an array, or of nothing.
fn array(value: &Value) -> Vec<&Value> {
    value
        .as_array()
        .map(|array| array.iter().collect())
        .unwrap_or_default()
}

fn is_subset(labels: &Value, of: &Value) -> bool {
    let labels = labels.as_object().unwrap();
    !labels.is_empty()
        && labels
            .iter()
            .all(|(name, value)| of.get(name) == Some(value))
}

/// Every file of the example is named by a kustomization, so that no file is left unread.
#[test]
fn every_file_of_the_example_is_used() {
    for folder in ["base", "overlays/ingress", "overlays/acme"] {
        let folder = Path::new(EXAMPLE).join(folder);
        let kustomization = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
        for entry in fs::read_dir(&folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_named = kustomization.contains(&name) || name == "kustomization.yaml";
            assert!(is_named, "{}", folder.join(name).display());
        }
    }
}
