//! A program that was written for the Python library paho-mqtt works unchanged, with one node and across three.
use mosquorum_tests::{
    skip::skip,
    target::{Target, TestResult, one_node, three_nodes},
};
use std::path::Path;
use tokio::process::Command;

async fn paho_is_missing() -> bool {
    let found =
        Command::new("python3").args(["-c", "import paho.mqtt.client as m; m.CallbackAPIVersion"]).output().await;
    let missing = !found.is_ok_and(|output| output.status.success());
    if missing {
        skip("python3 with paho-mqtt 2 is not installed");
    }
    missing
}

async fn echoes(callbacks: &str, target: Target) -> TestResult {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/paho_echo.py");
    let mut command = Command::new("python3");
    command.arg(script).args([callbacks, &target.a.to_string(), &target.b.to_string(), "200"]);
    let output = command.kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "200 answers", "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paho_program_works_with_both_kinds_of_callbacks_on_one_node() -> TestResult {
    if paho_is_missing().await {
        return Ok(());
    }
    echoes("VERSION1", one_node().await).await?;
    echoes("VERSION2", one_node().await).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paho_program_works_with_both_kinds_of_callbacks_across_three_nodes() -> TestResult {
    if paho_is_missing().await {
        return Ok(());
    }
    let Some(target) = three_nodes().await else { return Ok(()) };
    echoes("VERSION1", target).await?;
    echoes("VERSION2", target).await
}
