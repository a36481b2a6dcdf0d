//! Rounds of what happens to a release in Kubernetes, again and again, as long as you like:
//! `cargo run --release -p mosquorum-tests --bin pods -- --runs 20 --rounds rolling-restart,lost-claim --seed 1`
use mosquorum_tests::pods::{
    rounds::{Round, WITHOUT_A_NODE_MAX, run},
    tools, why_no_containers,
};
use std::{process::ExitCode, time::Duration};

struct Words {
    runs: u64,
    seed: u64,
    rate: u32,
    rounds: Vec<Round>,
}

fn words() -> Result<Words, String> {
    let mut all = Words { runs: 1, seed: 1, rate: 300, rounds: Round::ALL.to_vec() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{word} needs a number, not {value}"));
        match word.as_str() {
            "--runs" => all.runs = number()?,
            "--seed" => all.seed = number()?,
            "--rate" => all.rate = u32::try_from(number()?).map_err(|error| error.to_string())?,
            "--rounds" => all.rounds = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            _ => return Err(format!("unknown: {word}; known: --runs N, --seed N, --rate N, --rounds A,B")),
        }
    }
    Ok(all)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let words = match words() {
        Ok(words) => words,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(3);
        }
    };
    if let Some(why) = why_no_containers().or_else(|| tools::install().err()) {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    let (mut failed, mut worst) = (0, Duration::ZERO);
    for seed in words.seed..words.seed + words.runs {
        match run(seed, &words.rounds, words.rate).await {
            Ok(report) => {
                println!("{}", report.line());
                report.violations.iter().for_each(|violation| println!("  {violation}"));
                let without = report.longest_without.0;
                worst = worst.max(without);
                failed += u64::from(!report.violations.is_empty() || without > WITHOUT_A_NODE_MAX);
            }
            Err(error) => {
                println!("{error}");
                failed += 1;
            }
        }
    }
    println!("{} runs, {failed} failed, longest without a node {:.2} s", words.runs, worst.as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
