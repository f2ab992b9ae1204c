//! The real `ctl` against a real admin server with a fake cluster behind it.

mod changes;
#[path = "../../../node/admin/tests/admin/fake.rs"]
mod fake;
mod looks;
mod lost;
mod run;
