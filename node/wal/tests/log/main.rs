//! The log as its callers see it: on real files, and on simulated disks that
//! crash, tear, lie and fill up.

mod faults;
mod model;
mod real;
mod support;
