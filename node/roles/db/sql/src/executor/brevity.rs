//! Whether a statement touches a few rows only, whatever is in the database: seen in
//! the program that SQLite makes of it.

use std::collections::HashSet;

use super::Executor;
use crate::analyze::Plan;
use crate::statement::{Body, Kind, Statement};
use crate::{Context, PgType};

/// The longest program of a brief statement, in instructions.
const LONGEST: usize = 2_000;

/// One instruction of SQLite's machine.
struct Instruction {
    address: i64,
    name: String,
    p1: i64,
    p2: i64,
}

impl Executor {
    /// Whether INSERT, UPDATE or DELETE reads and changes a bounded number of rows: by
    /// their key, or as they are given. An error of the statement makes it brief, too.
    pub fn is_brief(
        &mut self,
        statement: &Statement,
        parameter_types: &[Option<PgType>],
        context: &Context,
    ) -> bool {
        if !matches!((statement.kind(), statement.body()), (Kind::Write, Body::Statement(_))) {
            return false;
        }
        // How long it takes is a guess, for which the plan of an earlier schema will do.
        let catalog = self.catalog.clone();
        if let Some(plan) = self.plans.known(statement, parameter_types, &catalog, context)
            && let Some(is_brief) = plan.is_brief.get()
        {
            return *is_brief;
        }
        let shared = match parameter_types.is_empty() {
            true => self.filled(statement, context).ok().flatten().map(|(plan, _)| plan),
            false => None,
        };
        let plan = shared.map_or_else(|| self.plan(statement, parameter_types, context), Ok);
        match plan {
            Ok(plan) => *plan.is_brief.get_or_init(|| self.has_brief_program(&plan)),
            Err(_) => true,
        }
    }

    fn has_brief_program(&self, plan: &Plan) -> bool {
        self.program(plan).is_ok_and(|program| is_brief(&program))
    }

    fn program(&self, plan: &Plan) -> rusqlite::Result<Vec<Instruction>> {
        let mut statement = self.connection.prepare(&format!("EXPLAIN {}", plan.sql))?;
        let mut rows = statement.raw_query();
        let mut program = Vec::new();
        while let Some(row) = rows.next()?
            && program.len() <= LONGEST
        {
            let (address, name) = (row.get(0)?, row.get(1)?);
            program.push(Instruction { address, name, p1: row.get(2)?, p2: row.get(3)? });
        }
        Ok(program)
    }
}

/// A program without loops does each of its instructions once. The only loop that is
/// bounded by that is one over rows that it has itself gathered before, for RETURNING.
fn is_brief(program: &[Instruction]) -> bool {
    let gathered: HashSet<i64> =
        program.iter().filter(|it| it.name == "OpenEphemeral").map(|it| it.p1).collect();
    let has = |name: &str| program.iter().any(|it| it.name == name);
    program.len() <= LONGEST
        // It gives a row another key. SQLite tells of the new one only, and whoever wants to
        // know which rows are changed does better with none of these.
        && !(has("Delete") && has("Insert"))
        && program.iter().all(|it| match it.name.as_str() {
            "Next" | "Prev" | "SorterNext" => gathered.contains(&it.p1),
            // To the beginning, once, after the transaction was begun.
            "Goto" => it.p2 > it.address || it.p2 == 1,
            // Loops by other means, triggers, and instructions that touch whole tables.
            "VNext" | "VFilter" | "VUpdate" | "RowSetRead" | "Yield" | "Program" | "Clear"
            | "Count" | "Destroy" | "SorterSort" | "IntegrityCk" | "Vacuum" | "Gosub" => false,
            _ => true,
        })
}
