//! Tables of what drivers tell of pipelines: a line `NAME: instructions=… registers=… …` each, below a line `# DRIVER`.

use std::collections::BTreeMap;
use std::fmt;

/// The columns, and what drivers call them, without case: RADV, then ANV and hasvk, then NVK.
const COLUMNS: [(&str, &[&str]); 6] = [
    ("instructions", &["instructions", "instruction count"]),
    // Vector registers of a lane.
    ("registers", &["vgprs", "max live registers", "number of gprs"]),
    ("spills", &["spilled sgprs", "spilled vgprs", "spill count"]),
    ("fills", &["fill count"]),
    // Bytes of a lane's own memory beyond registers: spills, and arrays with indices that are not constant.
    ("scratch", &["scratch size", "scratch memory size", "slm size"]),
    ("width", &["max dispatch width"]),
];

/// Of more instructions or registers than this part, nothing is said: compilers differ by as much between versions.
const TOLERANCE: f64 = 0.1;
/// Registers come in steps of this on AMD.
const REGISTER_STEP: u64 = 8;

/// Values by column.
#[derive(Default, Clone, PartialEq)]
pub struct Statistics([Option<u64>; COLUMNS.len()]);

impl Statistics {
    /// Adds what a driver tells; several executables of a pipeline, or several kinds of spills, are summed.
    pub fn add(&mut self, name: &str, value: u64) {
        let name = name.to_lowercase();
        if let Some(column) = COLUMNS.iter().position(|(_, names)| names.contains(&name.as_str())) {
            *self.0[column].get_or_insert(0) += value;
        }
    }
}

/// A pipeline's line.
#[derive(Clone)]
pub struct Row {
    pub name: String,
    pub statistics: Statistics,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:", self.name)?;
        for ((column, _), value) in COLUMNS.iter().zip(self.statistics.0) {
            if let Some(value) = value {
                write!(f, " {column}={value}")?;
            }
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, Row>, String> {
    let row = |line: &str| {
        let wrong = || format!("not a row of a table: {line}");
        let (name, values) = line.split_once(':').ok_or_else(wrong)?;
        let mut statistics = Statistics::default();
        for pair in values.split_whitespace() {
            let (column, value) = pair.split_once('=').ok_or_else(wrong)?;
            let column = COLUMNS.iter().position(|(name, _)| *name == column).ok_or_else(wrong)?;
            statistics.0[column] = Some(value.parse().map_err(|_| wrong())?);
        }
        Ok((name.to_string(), Row { name: name.into(), statistics }))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

/// What got worse from one table to the other, and what else is different.
fn differences(kept: &str, found: &str) -> Result<(Vec<String>, Vec<String>), String> {
    let (kept, found) = (parse(kept)?, parse(found)?);
    let (mut worse, mut other) = (Vec::new(), Vec::new());
    let gone = kept.values().filter(|row| !found.contains_key(&row.name));
    worse.extend(gone.map(|row| format!("{}: is only in the kept table", row.name)));
    for row in found.values() {
        let Some(before) = kept.get(&row.name) else {
            worse.push(format!("{row}: is not in the kept table"));
            continue;
        };
        let mut grew = false;
        for ((column, _), (old, new)) in COLUMNS.iter().zip(before.statistics.0.into_iter().zip(row.statistics.0)) {
            let (old, new) = (old.unwrap_or(0), new.unwrap_or(0));
            grew |= match *column {
                "width" => new < old,
                "instructions" => new as f64 > old as f64 * (1.0 + TOLERANCE),
                "registers" => new as f64 > old as f64 * (1.0 + TOLERANCE) && new > old + REGISTER_STEP,
                _ => new > old,
            };
        }
        if grew {
            worse.push(format!("{row}\n  was{}", &before.to_string()[row.name.len() + 1..]));
        } else if row.statistics != before.statistics {
            other.push(row.to_string());
        }
    }
    Ok((worse, other))
}

/// Compares two files.
pub fn compare(kept: &str, found: &str) -> Result<(), String> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"));
    let (worse, other) = differences(&read(kept)?, &read(found)?)?;
    println!("{kept}: {} worse or new, {} otherwise different", worse.len(), other.len());
    match worse.is_empty() {
        true => Ok(()),
        false => Err(format!("{}\nwhere that is wanted, keep the new table", worse.join("\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = "# a driver\nsum N=1 wr: instructions=100 registers=64 spills=0 scratch=0 width=32\n";

    fn told(from: &str, to: &str) -> (usize, usize) {
        assert!(KEPT.contains(from), "{from}");
        let (worse, other) = differences(KEPT, &KEPT.replace(from, to)).unwrap();
        (worse.len(), other.len())
    }

    #[test]
    fn worse_is_told_apart_from_different() {
        assert_eq!(told("a driver", "another"), (0, 0));
        assert_eq!(told("=100", "=90"), (0, 1));
        assert_eq!(told("=100", "=110"), (0, 1));
        assert_eq!(told("=100", "=111"), (1, 0));
        assert_eq!(told("=64", "=72"), (0, 1));
        assert_eq!(told("=64", "=80"), (1, 0));
        assert_eq!(told("spills=0", "spills=1"), (1, 0));
        assert_eq!(told("scratch=0", "scratch=16"), (1, 0));
        assert_eq!(told("width=32", "width=16"), (1, 0));
        assert_eq!(told("N=1", "N=2"), (2, 0));
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let mut statistics = Statistics::default();
        for (name, value) in [("VGPRs", 24), ("Spilled SGPRs", 2), ("Spilled VGPRs", 3), ("Latency", 9)] {
            statistics.add(name, value);
        }
        let row = Row { name: "sum N=1 wr".into(), statistics };
        assert_eq!(row.to_string(), "sum N=1 wr: registers=24 spills=5");
        assert!(parse(&row.to_string()).unwrap()["sum N=1 wr"].statistics == row.statistics);
        assert!(parse("sum FAULT").is_err() && parse("sum: other=1").is_err() && parse("sum: spills=x").is_err());
    }
}
