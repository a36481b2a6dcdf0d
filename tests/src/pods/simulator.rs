//! A Kubernetes of one machine, as far as the chart needs one: `helm install` and `helm upgrade` with their hooks, the
//! controller of a StatefulSet, claims, names and the clients' Service.
//! Always true: pods are replaced as the StatefulSet says (Parallel; an update goes from the highest ordinal down and
//! waits for each to be available); a pod that comes back has a new address under its old name; a claim keeps its files
//! until it is deleted.
use super::{
    container::Container,
    image::Image,
    kubelet::{Phase, Pod, PodPlan, Status, Stop, Tally},
    manifests::{Files, Manifests, number, words},
    service::{Endpoints, LAG, Service},
    volumes,
};
use crate::cluster::{Build, Namespaces, TestFolder, binary, folder::workspace};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

const RELEASE: &str = "mq";
const CHECK: Duration = Duration::from_millis(50);
const EXEC_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct Simulator {
    settings: Vec<String>,
    objects: Manifests,
    image: Image,
    pods: Arc<parking::Pods>,
    claims_to_delete: BTreeSet<String>,
    namespaces: Namespaces,
    hosts: PathBuf,
    pub tally: Arc<Tally>,
    /// Where clients connect.
    pub address: SocketAddr,
    _service: Service,
    folder: TestFolder,
}

/// Pods by ordinal, seen by the Service too.
mod parking {
    use super::{BTreeMap, Pod};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    #[derive(Debug, Default)]
    pub(super) struct Pods(Mutex<BTreeMap<usize, Pod>>);

    impl Pods {
        pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Pod>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

fn other(error: String) -> io::Error {
    io::Error::other(error)
}

impl Simulator {
    /// `helm install`, with `--set` of each of `settings`; waits until every pod is available. `secrets`: those that the
    /// chart expects to be there, name and files.
    /// # Errors
    /// When the chart cannot be rendered, a process cannot be started, or pods do not become available in time.
    pub async fn install(
        settings: &[String],
        secrets: &[(&str, &[(&str, &str)])],
        timeout: Duration,
    ) -> io::Result<Self> {
        let folder = TestFolder::new("pods")?;
        let binary = binary::path(Build::Plain)?;
        let image = Image::build(&workspace().join("deploy/docker/Dockerfile"), &folder.path().join("image"), &binary)?;
        let namespaces = Namespaces::create(0)?;
        let address = SocketAddr::new(namespaces.gateway().into(), 1883);
        let endpoints = Endpoints::default();
        let pods = Arc::new(parking::Pods::default());
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n")?;
        let mut objects = Manifests::render(RELEASE, settings, false).map_err(other)?;
        secrets.iter().for_each(|(name, files)| objects.give(name, owned(files)));
        let mut simulator = Self {
            settings: settings.to_vec(),
            objects,
            image,
            pods: pods.clone(),
            claims_to_delete: BTreeSet::new(),
            namespaces,
            hosts,
            tally: Arc::default(),
            address,
            _service: Service::open(address, endpoints.clone()).await?,
            folder,
        };
        let weak = Arc::downgrade(&pods);
        tokio::spawn(async move {
            while let Some(pods) = weak.upgrade() {
                let ready = |pod: &&Pod| pod.is_ready();
                let now: Vec<SocketAddr> =
                    pods.lock().values().filter(ready).map(|pod| SocketAddr::new(pod.address.into(), 1883)).collect();
                drop(pods);
                sleep(LAG).await;
                endpoints.set(now);
            }
        });
        simulator.settle(timeout).await?;
        Ok(simulator)
    }

    /// `helm upgrade --reuse-values` with further settings: its hooks, then the objects; waits until all is as they say.
    /// # Errors
    /// As [`Self::install`]; also when a hook fails.
    pub async fn upgrade(&mut self, settings: &[&str], timeout: Duration) -> io::Result<()> {
        self.settings.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let mut objects = Manifests::render(RELEASE, &self.settings, true).map_err(other)?;
        objects.keep_secrets(&self.objects);
        let fewer = replicas(&objects)? < replicas(&self.objects)?;
        // The chart looks up how many there are; where it cannot, as here, it always has the hook.
        if fewer {
            let job = objects.only("Job").map_err(other)?.clone();
            self.run_job(&job["spec"]["template"]["spec"]).await?;
        }
        self.objects = objects;
        self.settle(timeout).await
    }

    async fn run_job(&mut self, spec: &Value) -> io::Result<()> {
        for list in ["initContainers", "containers"] {
            for container in spec[list].as_array().into_iter().flatten() {
                self.kubectl(&words(&container["command"])).await?;
            }
        }
        Ok(())
    }

    /// The two things that hooks ask of the API.
    async fn kubectl(&mut self, command: &[String]) -> io::Result<()> {
        let plain: Vec<&str> = command.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
        match plain.as_slice() {
            ["kubectl", "exec", ..] => {
                let at = command.iter().position(|word| word == "--").ok_or_else(|| io::Error::other("no command"))?;
                let text = self.exec_anywhere(&command[at + 1..]).await?;
                text.lines().for_each(|line| println!("  hook: {line}"));
                Ok(())
            }
            ["kubectl", "delete", "persistentvolumeclaims", claims @ ..] => {
                self.claims_to_delete.extend(claims.iter().map(|claim| (*claim).to_owned()));
                Ok(())
            }
            other => Err(io::Error::other(format!("the simulator does not know {other:?}"))),
        }
    }

    /// `kubectl exec` in the first pod that is ready.
    /// # Errors
    /// When none is, or the command fails.
    pub async fn exec_anywhere(&self, command: &[String]) -> io::Result<String> {
        let plan = {
            let pods = self.pods.lock();
            let pod = pods.values().find(|pod| pod.is_ready()).ok_or_else(|| io::Error::other("no pod is ready"))?;
            pod.handle()
        };
        plan.exec(command, EXEC_TIMEOUT).await.map_err(other)
    }

    /// What `mosquorum cluster status --json` says.
    /// # Errors
    /// When no pod is ready or its answer is no JSON.
    pub async fn status(&self) -> io::Result<Value> {
        let command = ["/usr/sbin/mosquorum", "cluster", "status", "--json"].map(String::from);
        let text = self.exec_anywhere(&command).await?;
        serde_json::from_str(&text).map_err(|error| io::Error::other(format!("{error}: {text}")))
    }

    /// `helm test`: what its pod printed.
    /// # Errors
    /// When it fails.
    pub async fn test(&mut self, timeout: Duration) -> io::Result<String> {
        let pod = self.objects.only("Pod").map_err(other)?.clone();
        let main = &pod["spec"]["containers"][0];
        let network = self.namespaces.add()?;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let mut container = Container::of(&self.image, name, &self.folder.path().join(name));
        container.network = Some(self.namespaces.name(network).to_owned());
        container.command = words(&main["command"]);
        container.user = format!("{0}:{0}", number(&pod, "/spec/securityContext/runAsUser", 0));
        container = container.mount(&self.hosts, "/etc/hosts", true);
        for (variable, value) in self.environment(main, name, "").map_err(other)? {
            container = container.variable(&variable, &value);
        }
        let outcome = container.run(timeout).await;
        self.namespaces.remove(network);
        outcome
    }

    /// `kubectl apply` of a Secret: pods see its new files, no pod is touched.
    /// # Errors
    /// When the files cannot be written.
    pub fn change_secret(&mut self, secret: &str, files: &[(&str, &str)]) -> io::Result<()> {
        self.objects.give(secret, owned(files));
        let set = self.objects.only("StatefulSet").map_err(other)?;
        let ordinals: Vec<usize> = self.pods.lock().keys().copied().collect();
        for volume in set["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten() {
            if volume["secret"]["secretName"] != secret {
                continue;
            }
            for ordinal in &ordinals {
                let folder = self.folder.path().join(self.pod_name(*ordinal)?).join("volumes");
                let folder = folder.join(volume["name"].as_str().unwrap_or_default());
                volumes::project(&folder, &owned(files), 0o440)?;
            }
        }
        Ok(())
    }

    /// The machine of a pod is gone, its claim stays: the pod starts on another one.
    /// # Errors
    /// As [`Self::install`].
    pub async fn lose_machine(&mut self, ordinal: usize, timeout: Duration) -> io::Result<()> {
        self.lose(ordinal).await?;
        self.settle(timeout).await
    }

    /// The machine of a pod is gone, and its disk with it.
    /// # Errors
    /// As [`Self::install`].
    pub async fn lose_claim(&mut self, ordinal: usize, timeout: Duration) -> io::Result<()> {
        self.lose(ordinal).await?;
        let claims: Vec<PathBuf> = self.claims_of(&self.pod_name(ordinal)?)?;
        for claim in claims {
            fs::remove_dir_all(claim)?;
        }
        self.settle(timeout).await
    }

    async fn lose(&mut self, ordinal: usize) -> io::Result<()> {
        if let Some(pod) = self.pods.lock().get(&ordinal) {
            pod.stop(Stop::Now);
        }
        while self.pods.lock().get(&ordinal).is_some_and(|pod| pod.status().phase != Phase::Over) {
            sleep(CHECK).await;
        }
        Ok(())
    }

    /// Waits until pods are as the objects say, and available.
    async fn settle(&mut self, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.reconcile()? {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("not settled after {timeout:?}\n{}", self.describe().await)));
            }
            sleep(CHECK).await;
        }
        Ok(())
    }

    /// One step of the controller; true if there is nothing left to do.
    fn reconcile(&mut self) -> io::Result<bool> {
        let set = self.objects.only("StatefulSet").map_err(other)?.clone();
        let wanted = replicas(&self.objects)?;
        let revision = set["spec"]["template"].to_string();
        let min_ready = Duration::from_secs(number(&set, "/spec/minReadySeconds", 0));
        self.bury();
        self.delete_claims()?;
        let missing: Vec<usize> = (0..wanted).filter(|ordinal| !self.pods.lock().contains_key(ordinal)).collect();
        for ordinal in &missing {
            let pod = self.create(*ordinal, &set, &revision)?;
            self.pods.lock().insert(*ordinal, pod);
        }
        if !missing.is_empty() {
            self.write_hosts()?;
        }
        let pods = self.pods.lock();
        let mut quiet = true;
        for (_, pod) in pods.iter().filter(|(ordinal, _)| **ordinal >= wanted) {
            quiet = false;
            if pod.status().phase == Phase::Running {
                pod.stop(Stop::Gracefully);
            }
        }
        for (_, pod) in pods.iter().filter(|(ordinal, _)| **ordinal < wanted).rev() {
            let terminating = pod.status().phase != Phase::Running;
            if !terminating && pod.revision != revision {
                pod.stop(Stop::Gracefully);
            }
            if terminating || pod.revision != revision || !pod.is_available(min_ready) {
                return Ok(false);
            }
        }
        Ok(quiet)
    }

    /// Takes away what has ended.
    fn bury(&mut self) {
        let mut pods = self.pods.lock();
        let over: Vec<usize> =
            pods.iter().filter(|(_, pod)| pod.status().phase == Phase::Over).map(|(ordinal, _)| *ordinal).collect();
        for ordinal in over {
            if let Some(pod) = pods.remove(&ordinal) {
                self.namespaces.remove(pod.network);
            }
        }
    }

    fn pod_name(&self, ordinal: usize) -> io::Result<String> {
        let set = self.objects.only("StatefulSet").map_err(other)?;
        Ok(format!("{}-{ordinal}", set["metadata"]["name"].as_str().unwrap_or_default()))
    }

    fn claims(&self) -> PathBuf {
        self.folder.path().join("claims")
    }

    fn claims_of(&self, pod: &str) -> io::Result<Vec<PathBuf>> {
        let set = self.objects.only("StatefulSet").map_err(other)?;
        let templates = set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
        let name = |template: &Value| template["metadata"]["name"].as_str().map(|name| format!("{name}-{pod}"));
        Ok(templates.filter_map(name).map(|name| self.claims().join(name)).collect())
    }

    /// A claim that was deleted goes when no pod uses it.
    fn delete_claims(&mut self) -> io::Result<()> {
        let used: BTreeSet<String> = {
            let pods = self.pods.lock();
            let names = pods.keys().map(|ordinal| self.pod_name(*ordinal)).collect::<io::Result<Vec<_>>>()?;
            let claims = names.iter().map(|name| self.claims_of(name)).collect::<io::Result<Vec<_>>>()?;
            claims.concat().iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
        };
        let (kept, free): (BTreeSet<String>, _) =
            std::mem::take(&mut self.claims_to_delete).into_iter().partition(|claim| used.contains(claim));
        for claim in free {
            match fs::remove_dir_all(self.claims().join(claim)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.claims_to_delete = kept;
        Ok(())
    }

    fn create(&mut self, ordinal: usize, set: &Value, revision: &str) -> io::Result<Pod> {
        let name = self.pod_name(ordinal)?;
        let network = self.namespaces.add()?;
        let address = self.namespaces.address(network);
        let template = &set["spec"]["template"]["spec"];
        let containers: Vec<&Value> = template["containers"].as_array().into_iter().flatten().collect();
        let (main, sidecars) = containers.split_first().ok_or_else(|| io::Error::other("no container"))?;
        let folder = self.folder.path().join(&name);
        // Volumes that last as long as the pod are made anew.
        let _ = fs::remove_dir_all(folder.join("volumes"));
        let mounts = volumes::mounts(&name, template, main, &self.objects, &folder.join("volumes"), &self.claims());
        let mut container = Container::of(&self.image, &name, &folder);
        container.network = Some(self.namespaces.name(network).to_owned());
        container.mounts = mounts.map_err(other)?;
        container = container.mount(&self.hosts, "/etc/hosts", true);
        let user = |key: &str| number(template, &format!("/securityContext/{key}"), 0);
        container.user = format!("{}:{}", user("runAsUser"), user("runAsGroup"));
        container.command = words(&main["command"]);
        main["workingDir"].as_str().unwrap_or_default().clone_into(&mut container.working_folder);
        for (variable, value) in self.environment(main, &name, &address.to_string()).map_err(other)? {
            container = container.variable(&variable, &value);
        }
        let plan = PodPlan {
            main: container,
            sidecars: sidecars.iter().map(|sidecar| words(&sidecar["command"])).collect(),
            manifest: (*main).clone(),
            address,
            grace: Duration::from_secs(number(template, "/terminationGracePeriodSeconds", 30)),
            status: Arc::default(),
            running: Arc::default(),
            tally: self.tally.clone(),
        };
        Ok(Pod::start(plan, revision.to_owned(), address, network))
    }

    fn environment(&self, container: &Value, pod: &str, address: &str) -> Result<Vec<(String, String)>, String> {
        let mut all: Vec<(String, String)> = Vec::new();
        for entry in container["env"].as_array().into_iter().flatten() {
            let name = entry["name"].as_str().unwrap_or_default().to_owned();
            let from = &entry["valueFrom"];
            let value = if let Some(text) = entry["value"].as_str() {
                all.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
            } else if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
                match path {
                    "metadata.name" => pod.to_owned(),
                    "status.podIP" => address.to_owned(),
                    other => return Err(format!("the simulator does not know the field {other}")),
                }
            } else {
                let kind = if from["secretKeyRef"].is_null() { "ConfigMap" } else { "Secret" };
                let reference = &from[if kind == "Secret" { "secretKeyRef" } else { "configMapKeyRef" }];
                let files = self.objects.files(kind, reference["name"].as_str().unwrap_or_default())?;
                let found = files.into_iter().find(|(key, _)| reference["key"] == key.as_str());
                String::from_utf8(found.ok_or_else(|| format!("no value for {name}"))?.1).map_err(|e| e.to_string())?
            };
            all.push((name, value));
        }
        Ok(all)
    }

    /// Every pod by its name, ready or not; in place, since pods see this very file.
    fn write_hosts(&self) -> io::Result<()> {
        let set = self.objects.only("StatefulSet").map_err(other)?;
        let peers = set["spec"]["serviceName"].as_str().unwrap_or_default();
        let name = set["metadata"]["name"].as_str().unwrap_or_default();
        let mut text = format!("127.0.0.1 localhost\n{} {name}.mqtt.svc.cluster.local\n", self.address.ip());
        for (ordinal, pod) in self.pods.lock().iter() {
            let name = self.pod_name(*ordinal)?;
            text.push_str(&format!("{} {name}.{peers}.mqtt.svc.cluster.local {name}\n", pod.address));
        }
        let file = fs::OpenOptions::new().write(true).open(&self.hosts)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)
    }

    /// All pods, what happened to them, and the end of their logs.
    pub async fn describe(&self) -> String {
        let pods: Vec<(usize, Status, super::kubelet::Handle)> =
            self.pods.lock().iter().map(|(ordinal, pod)| (*ordinal, pod.status(), pod.handle())).collect();
        let mut text = String::new();
        for (ordinal, status, handle) in pods {
            let log = handle.log().await;
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(25)..].join("\n");
            text.push_str(&format!("--- pod {ordinal}: {status:?}\n{end}\n"));
        }
        text
    }

    /// Leaves everything for whoever looks for the cause.
    pub fn keep_folder(&mut self) {
        self.folder.keep();
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.keep();
        }
        // Processes end before their networks go.
        self.pods.lock().clear();
    }
}

fn owned(files: &[(&str, &str)]) -> Files {
    files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

fn replicas(objects: &Manifests) -> io::Result<usize> {
    let set = objects.only("StatefulSet").map_err(other)?;
    Ok(number(set, "/spec/replicas", 1) as usize)
}
