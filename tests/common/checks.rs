//! Comparison with what is expected.

use std::cell::RefCell;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::engine::{Array, Result};
use super::nmse;

/// Fails when shapes differ or the normalised mean squared error is above `limit`.
pub fn close(what: &str, expected: &Array<f32>, found: &Array<f32>, limit: f64) {
    assert_eq!(expected.shape, found.shape, "{what}");
    let error = nmse(&expected.values, &found.values);
    assert!(error <= limit, "{what}: normalised mean squared error {error:e} above {limit:e}");
    println!("{what}: {error:.1e}");
}

/// The checks of a long test: one that fails does not keep the others from being made.
#[derive(Default)]
pub struct Checks {
    made: RefCell<usize>,
    failed: RefCell<Vec<String>>,
}

impl Checks {
    /// Runs a check, which fails by a panic or an error; what it returned.
    pub fn run<T>(&self, what: &str, check: impl FnOnce() -> Result<T>) -> Option<T> {
        *self.made.borrow_mut() += 1;
        let reason = match catch_unwind(AssertUnwindSafe(check)) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
                (Some(text), _) => text.clone(),
                (_, Some(text)) => text.to_string(),
                _ => "a panic without a text".into(),
            },
        };
        self.failed.borrow_mut().push(format!("{what}: {reason}"));
        None
    }

    /// As [`Checks::run`], for what fails by a panic alone.
    pub fn hold(&self, what: &str, check: impl FnOnce()) {
        self.run(what, || {
            check();
            Ok(())
        });
    }

    /// As [`close`].
    pub fn close(&self, what: &str, expected: &Array<f32>, found: &Array<f32>, limit: f64) {
        self.hold(what, || close(what, expected, found, limit));
    }

    pub fn equal<T: PartialEq + Debug>(&self, what: &str, expected: T, found: T) {
        self.hold(what, || assert_eq!(expected, found, "{what}"));
    }

    /// Fails with all that failed.
    pub fn finish(self) {
        let (made, failed) = (self.made.into_inner(), self.failed.into_inner());
        assert!(failed.is_empty(), "{} of {made} checks failed:\n{}", failed.len(), failed.join("\n"));
    }
}

/// Both checks fail, and the second is made although the first one did.
#[test]
#[should_panic(expected = "2 of 3 checks failed:\nfirst: ")]
fn checks_go_on() {
    let checks = Checks::default();
    checks.equal("first", 1, 2);
    checks.equal("second", 2, 2);
    checks.run("third", || Err::<(), _>(super::engine::Error::Aborted));
    checks.finish();
}
