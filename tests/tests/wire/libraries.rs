//! Programs that were written for common client libraries work unchanged: paho-mqtt 1 and 2 from Python, MQTT.js from
//! Node.js and from a page in a browser.
use mosquorum_tests::{
    client::TIMEOUT,
    cluster::{Cluster, ClusterOptions, TestFolder},
    programs::{converse, here, libraries},
    skip::{has_program, skip},
    target::{Failure, Target, TestResult, one_node, three_nodes},
};
use std::{net::SocketAddr, path::Path, process::Stdio};
use tokio::process::Command;

const BROWSERS: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];
const PAHO_1: &str = "paho-1.6.1";
const PAHO_2: &str = "paho-2.1.0";

async fn echoes(folder: &Path, library: &str, callbacks: &str, target: Target) -> TestResult {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", folder.join(library)).arg(here().join("paho_echo.py"));
    command.args([callbacks, &target.a.to_string(), &target.b.to_string(), "200"]);
    let output = command.kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{library}: {text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "200 answers", "{library}: {text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_for_paho_1_and_2_work_on_one_node() -> TestResult {
    let Some(folder) = libraries().await else { return Ok(()) };
    for (library, callbacks) in [(PAHO_1, "NONE"), (PAHO_2, "VERSION1"), (PAHO_2, "VERSION2")] {
        echoes(&folder, library, callbacks, one_node().await).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_for_paho_1_and_2_work_across_three_nodes() -> TestResult {
    let Some(folder) = libraries().await else { return Ok(()) };
    let Some(target) = three_nodes().await else { return Ok(()) };
    for (library, callbacks) in [(PAHO_1, "NONE"), (PAHO_2, "VERSION1"), (PAHO_2, "VERSION2")] {
        echoes(&folder, library, callbacks, target).await?;
    }
    Ok(())
}

/// One node with WebSockets on a second port, which also serves the page.
async fn with_websockets(name: &str, page: &Path) -> Result<(Cluster, SocketAddr), Failure> {
    let mut cluster = Cluster::prepare(ClusterOptions::new(name, 1))?;
    let address = SocketAddr::new(cluster.address(0).ip(), cluster.address(0).port() + 100);
    let configuration = cluster.configuration_file(0);
    let text = std::fs::read_to_string(configuration)?;
    let (port, host, page) = (address.port(), address.ip(), page.display());
    std::fs::write(configuration, format!("{text}listener {port} {host}\nprotocol websockets\nhttp_dir {page}\n"))?;
    cluster.start_node(0)?;
    cluster.wait_serving(0, TIMEOUT).await?;
    Ok((cluster, address))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_for_mqttjs_works_in_nodejs_over_tcp_and_websockets() -> TestResult {
    if !has_program("node") {
        skip("there is no Node.js");
        return Ok(());
    }
    let Some(folder) = libraries().await else { return Ok(()) };
    let module = folder.join("mqttjs/node_modules/mqtt");
    let (cluster, websockets) = with_websockets("mqttjs", &here()).await?;
    let tcp = cluster.address(0);
    for (number, url) in [format!("mqtt://{tcp}"), format!("ws://{websockets}/mqtt")].iter().enumerate() {
        for version in ["4", "5"] {
            let name = format!("node-{number}-{version}");
            let mut command = Command::new("node");
            command.arg(here().join("mqttjs_answer.js")).arg(&module).args([url, &name, version]);
            converse(&cluster, &name, command.kill_on_drop(true).spawn()?).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_mqttjs_works_in_a_browser() -> TestResult {
    let Some(browser) = BROWSERS.into_iter().find(|browser| has_program(browser)) else {
        skip("there is no Chromium");
        return Ok(());
    };
    let Some(folder) = libraries().await else { return Ok(()) };
    let page = TestFolder::new("page")?;
    for (from, to) in [
        (folder.join("mqttjs/node_modules/mqtt/dist/mqtt.min.js"), "mqtt.min.js"),
        (here().join("mqttjs_answer.js"), "mqttjs_answer.js"),
    ] {
        std::fs::copy(from, page.path().join(to))?;
    }
    let scripts = "<script src=mqtt.min.js></script><script src=mqttjs_answer.js></script>";
    std::fs::write(page.path().join("page.html"), format!("<!doctype html><title>page</title>{scripts}"))?;
    let (cluster, address) = with_websockets("browser", page.path()).await?;
    for version in ["4", "5"] {
        let name = format!("browser-{version}");
        let mut command = Command::new(browser);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-port=0",
        ]);
        command.arg(format!("--user-data-dir={}", page.path().join(&name).display()));
        command.arg(format!("http://{address}/page.html?ws://{address}/&{name}&{version}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        converse(&cluster, &name, command.kill_on_drop(true).spawn()?).await?;
    }
    Ok(())
}
