//! `qllama duplicates`.

use std::cmp::Reverse;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};
use qllama::{Error, Mode, Result};

use super::file::{Index, find};
use super::product::{dot, pairs, tiles};
use super::search::shown;
use crate::common::modes;
use crate::many::names::{count, name_of};
use crate::out::{self, say};

/// Find pictures of an index that are alike: copies, other sizes, other cuts, shots in a row.
///
/// Prints groups, the largest file first, each other one with the cosine of its embedding and the first's. A group holds
/// all that hang together by pairs above the threshold. No model is needed.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  qllama duplicates photos\n  qllama duplicates photos --above 0.99 --json")]
pub struct Args {
    /// What `qllama index` wrote, or the folder that it was made of.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    /// The cosine from which two are alike: 1 for copies only.
    #[arg(long, value_name = "COSINE", default_value_t = 0.97, allow_negative_numbers = true)]
    above: f32,
    /// Which embeddings to compare.
    #[arg(long, value_parser = modes(&[Mode::C, Mode::G]), default_value = "c")]
    mode: Mode,
    /// Print JSON, one object a group.
    #[arg(long)]
    json: bool,
}

/// Cosines of copies come out a little below 1.
const ROUNDING: f32 = 1e-5;

pub fn run(args: Args) -> Result<()> {
    if !(-1.0..=1.0).contains(&args.above) {
        return Err(Error::Input { reason: format!("--above: expected a number from -1 to 1, found {}", args.above) });
    }
    let path = find(&args.index);
    let index = Index::read(&path, &[args.mode])?;
    let rows = index.rows(&path, args.mode)?;
    let (width, entries) = (index.width, &index.entries);
    let sets = Mutex::new(Sets((0..entries.len()).collect()));
    let bar = bar(tiles(entries.len()));
    if !entries.is_empty() {
        let join = |a, b| sets.lock().unwrap_or_else(PoisonError::into_inner).join(a, b);
        pairs(rows, width, args.above.min(1.0 - ROUNDING), &join, &|| bar.inc(1));
    }
    bar.finish_and_clear();
    let mut groups = sets.into_inner().unwrap_or_else(PoisonError::into_inner).groups();
    for group in &mut groups {
        group.sort_by_key(|row| (Reverse(entries[*row].size), *row));
    }
    groups.sort_by_key(|group| (Reverse(group.len()), group[0]));
    let here = std::env::current_dir().ok();
    let vector = |row: usize| &rows[row * width..(row + 1) * width];
    for group in &groups {
        let member = |row: &usize| {
            let name = name_of(&shown(&index.path(&path, *row), here.as_deref()));
            (name, dot(vector(group[0]), vector(*row)).min(1.0), entries[*row].size)
        };
        let members: Vec<(String, f32, i64)> = group.iter().map(member).collect();
        if args.json {
            let object = |(image, cosine, bytes): &(String, f32, i64)| serde_json::json!({ "image": image, "cosine": cosine, "bytes": bytes });
            say!("{}", serde_json::json!({ "images": members.iter().map(object).collect::<Vec<_>>() }));
            continue;
        }
        for (name, cosine, bytes) in &members {
            say!("{cosine:.4}  {}  {} bytes", out::name(name), count(*bytes as usize));
        }
        say!();
    }
    let alike: usize = groups.iter().map(Vec::len).sum();
    out::note(format_args!("qllama: {} groups of {} pictures that are alike", count(groups.len()), count(alike)));
    Ok(())
}

fn bar(tiles: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("comparing {bar:30} {percent}%, {eta} left").expect("the template is right");
    ProgressBar::new(tiles as u64).with_style(style)
}

/// Which rows hang together: each names one of its set, the smallest row itself.
struct Sets(Vec<usize>);

impl Sets {
    fn root(&mut self, mut row: usize) -> usize {
        while self.0[row] != row {
            self.0[row] = self.0[self.0[row]];
            row = self.0[row];
        }
        row
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }

    /// Sets of two or more.
    fn groups(mut self) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new(); self.0.len()];
        for row in 0..self.0.len() {
            all[self.root(row)].push(row);
        }
        all.retain(|group: &Vec<usize>| group.len() > 1);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_together_is_one_group() {
        let mut sets = Sets((0..8).collect());
        [(6, 7), (1, 2), (2, 6), (4, 3)].into_iter().for_each(|(a, b)| sets.join(a, b));
        assert_eq!(sets.groups(), [vec![1, 2, 6, 7], vec![3, 4]]);
    }
}
