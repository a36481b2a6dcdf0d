//! Runs chaos until told otherwise: `cargo run --release -p mosquorum-tests --bin chaos -- --help`.
use mosquorum_tests::{
    chaos::{ChaosOptions, Nemesis, nemesis::Rhythm, report, run},
    cluster::why_no_namespaces,
    skip::skip,
};
use std::{path::PathBuf, process::ExitCode};

const HELP: &str = "\
chaos: clients, faults and a verdict on a real cluster of processes
  --seed N          seed of the first run, the next runs count up (default: from the clock)
  --runs N          how many runs (default 1)
  --seconds N       length of the load of each run (default 30)
  --nemesis LIST    kill-leader,kill-follower,kill-majority,kill-all,pause-leader,partition-leader; all (default) or none
  --power-cut WHEN  never, always or mixed: unsynced bytes die with the process (default mixed: every second seed)
  --single          one node with persistence instead of three; --cycles N: so many kills in each run
  --rate N          messages per second of ordinary data (default 450)
  --plant BUG       ack-before-fsync, leader-only or stale-route: the run must find it
  --results FILE    appends one JSON line per run; seeds that are there already are not run again
  --keep            keeps files and history of every run, not only of failed ones
exit code: 0 no violation, 1 violations, 2 some runs do not count, 3 usage";

struct Arguments {
    template: ChaosOptions,
    runs: u64,
    power_cut: String,
    partitions_asked_for: bool,
    results: Option<PathBuf>,
}

fn parse() -> Result<Arguments, String> {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let mut arguments = Arguments {
        template: ChaosOptions::new(clock, 3),
        runs: 1,
        power_cut: "mixed".into(),
        partitions_asked_for: false,
        results: None,
    };
    arguments.template.nemeses = Nemesis::ALL.to_vec();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
        let template = &mut arguments.template;
        match word.as_str() {
            "--seed" => template.seed = number(value()?)?,
            "--runs" => arguments.runs = number(value()?)?,
            "--seconds" => template.seconds = number(value()?)?,
            "--rate" => template.rate = number(value()?)? as u32,
            "--plant" => template.plant = Some(value()?),
            "--keep" => template.keep = true,
            "--single" => {
                (template.nodes, template.nemeses) = (1, vec![Nemesis::KillAll]);
                template.rhythm = Rhythm { peace: (300, 900), down: (0, 100), ..Rhythm::default() };
            }
            "--cycles" => {
                template.rhythm.faults_max = number(value()?)? as usize;
                template.faults_min = template.rhythm.faults_max;
                template.seconds = 3600;
            }
            "--nemesis" => {
                let list = value()?;
                if list == "none" {
                    (template.nemeses, template.faults_min) = (Vec::new(), 0);
                } else if list != "all" {
                    template.nemeses = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
                    arguments.partitions_asked_for = template.nemeses.contains(&Nemesis::PartitionLeader);
                }
            }
            "--power-cut" => arguments.power_cut = value()?,
            "--results" => arguments.results = Some(value()?.into()),
            _ => return Err(HELP.into()),
        }
    }
    if !["never", "always", "mixed"].contains(&arguments.power_cut.as_str()) {
        return Err(HELP.into());
    }
    Ok(arguments)
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = match parse() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(3);
        }
    };
    if arguments.template.nemeses.contains(&Nemesis::PartitionLeader)
        && let Some(why) = why_no_namespaces()
    {
        skip(&format!("partitions: {why}"));
        arguments.template.nemeses.retain(|nemesis| *nemesis != Nemesis::PartitionLeader);
        if arguments.partitions_asked_for && arguments.template.nemeses.is_empty() {
            return ExitCode::from(2);
        }
    }
    series(&arguments).await
}

async fn series(arguments: &Arguments) -> ExitCode {
    let mut outcomes = Vec::new();
    let mut not_started = 0;
    for index in 0..arguments.runs {
        let mut options = arguments.template.clone();
        options.seed = arguments.template.seed + index;
        options.power_cut = match arguments.power_cut.as_str() {
            "always" => true,
            "mixed" => options.seed.is_multiple_of(2),
            _ => false,
        };
        let done = arguments
            .results
            .as_ref()
            .is_some_and(|path| report::seeds_done(path, &report::key(&options)).contains(&options.seed));
        if done {
            println!("seed {} is in the results already", options.seed);
            continue;
        }
        println!("run {}/{}: seed {}, {}", index + 1, arguments.runs, options.seed, report::key(&options));
        match run(&options).await {
            Ok(outcome) => {
                println!("{}", outcome.line());
                outcome.violations.iter().take(10).for_each(|violation| println!("  {violation}"));
                if let Some(Err(error)) = arguments.results.as_ref().map(|path| report::append(path, &outcome)) {
                    eprintln!("results: {error}");
                }
                outcomes.push(outcome);
            }
            Err(error) => {
                not_started += 1;
                eprintln!("seed {}: {error}", options.seed);
            }
        }
    }
    print!("{}", report::summary(&outcomes));
    if outcomes.iter().any(|outcome| !outcome.violations.is_empty()) {
        ExitCode::from(1)
    } else if not_started > 0 || outcomes.iter().any(|outcome| outcome.why_it_does_not_count.is_some()) {
        ExitCode::from(2)
    } else {
        ExitCode::SUCCESS
    }
}
