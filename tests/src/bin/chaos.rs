//! Runs chaos until it is stopped: `cargo run --release -p mosquorum-tests --bin chaos -- --help`.
use mosquorum_tests::{
    chaos::{ChaosOptions, Nemesis, nemesis::Rhythm, report, run, table},
    cluster::why_no_namespaces,
    skip::skip,
};
use std::{path::PathBuf, process::ExitCode, time::Duration};

const HELP: &str = "\
chaos: clients, faults and a verdict on a real cluster of processes
  --seed N          seed of the first run, the next runs count up (default: from the clock)
  --runs N          how many runs (default 1)
  --seconds N       length of the load of each run (default 30)
  --soak MINUTES    one long run with two-at-once and a small load; options after it change it
  --nemesis LIST    all (default), none, or a list with commas of
                      kill-leader kill-follower kill-majority kill-all pause-leader pause-follower
                      partition-leader cut-pair-leader cut-pair-followers cut-one-way-from-leader
                      cut-one-way-to-leader cut-one-way-followers flapping-pair packet-loss (all need root)
                      clock-jump-leader clock-jump-follower clock-skew (in the test build)
                      wipe-follower remove-add
                      two-at-once: a random pair of all these (root, test build)
  --power-cut WHEN  never, always or mixed: unsynced bytes die with the process (default mixed: every second seed)
  --single          one node with persistence instead of three; --cycles N: so many kills in each run
  --rate N          messages per second of ordinary data (default 450)
  --nodes N         so many nodes instead of three
  --live-rate N     QoS 2 messages per second of each of two publishers with live subscribers only (default 20)
  --packed-rate N   writes of 60 KB per second that are filler but for small messages that are kept (default 2)
  --serve-again N   seconds until every node that reaches a majority must serve again (default 15, for debug builds)
  --plant BUG       a bug of the test build: ack-before-fsync, leader-only, stale-route, no-proposal-fence, wall-clock,
                    origin-delivers, no-relay, reconnect-spin, congestion-sleeps or pinned-buffers (with --packed-rate 300);
                    the run must find it
  --results FILE    appends one JSON line per run; seeds that are there already are not run again
  --summary FILE    runs nothing: prints a table of what a results file says about each kind of fault
  --keep            keeps files and history of every run, not only of failed ones
exit code: 0 no violation, 1 violations, 2 some runs do not count, 3 usage";

struct Arguments {
    template: ChaosOptions,
    runs: u64,
    power_cut: String,
    nemeses_asked_for: bool,
    results: Option<PathBuf>,
    summary: Option<PathBuf>,
}

fn parse() -> Result<Arguments, String> {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let mut arguments = Arguments {
        template: ChaosOptions::new(clock, 3),
        runs: 1,
        power_cut: "mixed".into(),
        nemeses_asked_for: false,
        results: None,
        summary: None,
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
            "--serve-again" => template.serve_again_max = Duration::from_secs(number(value()?)?),
            "--rate" => template.rates.ordinary = number(value()?)? as u32,
            "--nodes" => {
                let fresh = ChaosOptions::new(template.seed, number(value()?)? as usize);
                template.nodes = fresh.nodes;
            }
            "--live-rate" => template.rates.live = number(value()?)? as u32,
            "--packed-rate" => template.rates.packed = number(value()?)? as u32,
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
            "--soak" => {
                let keep = template.keep;
                *template = ChaosOptions::soak(template.seed, number(value()?)?);
                (template.keep, arguments.nemeses_asked_for) = (keep, true);
            }
            "--nemesis" => {
                (template.nemeses, arguments.nemeses_asked_for) = nemeses(&value()?)?;
                if template.nemeses.is_empty() {
                    template.faults_min = 0;
                }
            }
            "--power-cut" => arguments.power_cut = value()?,
            "--results" => arguments.results = Some(value()?.into()),
            "--summary" => arguments.summary = Some(value()?.into()),
            _ => return Err(HELP.into()),
        }
    }
    if !["never", "always", "mixed"].contains(&arguments.power_cut.as_str()) {
        return Err(HELP.into());
    }
    let nodes = arguments.template.nodes;
    match arguments.template.nemeses.iter().find(|nemesis| nemesis.nodes_min() > nodes) {
        Some(nemesis) if arguments.nemeses_asked_for => Err(format!("{nemesis} needs {} nodes", nemesis.nodes_min())),
        _ => {
            arguments.template.nemeses.retain(|nemesis| nemesis.nodes_min() <= nodes);
            Ok(arguments)
        }
    }
}

/// The kinds in a list, and whether they were named one by one.
fn nemeses(list: &str) -> Result<(Vec<Nemesis>, bool), String> {
    match list {
        "none" => Ok((Vec::new(), false)),
        "all" => Ok((Nemesis::ALL.to_vec(), false)),
        list => Ok((list.split(',').map(str::parse).collect::<Result<_, _>>()?, true)),
    }
}

/// Takes out what this machine cannot do; false if nothing is left of what was asked for.
fn leave_out_impossible(arguments: &mut Arguments) -> bool {
    let nemeses = &mut arguments.template.nemeses;
    if !nemeses.iter().any(|nemesis| nemesis.needs_namespaces()) {
        return true;
    }
    if let Some(why) = why_no_namespaces() {
        let names: Vec<_> = nemeses.iter().filter(|n| n.needs_namespaces()).map(ToString::to_string).collect();
        skip(&format!("{}: {why}", names.join(", ")));
        nemeses.retain(|nemesis| !nemesis.needs_namespaces());
    }
    !(arguments.nemeses_asked_for && nemeses.is_empty())
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
    if let Some(path) = &arguments.summary {
        return match std::fs::read_to_string(path) {
            Ok(results) => {
                print!("{}", table::table(&results));
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                ExitCode::from(3)
            }
        };
    }
    if !leave_out_impossible(&mut arguments) {
        return ExitCode::from(2);
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
