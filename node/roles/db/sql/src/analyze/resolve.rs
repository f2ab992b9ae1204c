//! Which of several functions or operators a call means: PostgreSQL's rules.

use super::casts::{Category, Conversion, can_convert, category, is_preferred};
use crate::PgType;
use crate::signature::{Signature, SignatureType};

/// A signature that was chosen, with the types its arguments are converted to.
#[derive(Clone, Debug)]
pub(crate) struct Resolved<'s> {
    pub signature: &'s Signature,
    pub arguments: Vec<PgType>,
    pub result: PgType,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    None,
    Ambiguous,
}

/// Chooses by the types of the arguments; literals and undecided parameters are
/// unknown.
pub(crate) fn resolve<'s>(
    candidates: impl Iterator<Item = &'s Signature>,
    arguments: &[PgType],
    is_operator: bool,
) -> Result<Resolved<'s>, Failure> {
    // What takes values of any type would see how a record is stored.
    if arguments.iter().any(|base| matches!(base, PgType::Record(_))) {
        return Err(Failure::None);
    }
    let mut possible: Vec<Resolved<'s>> =
        candidates.filter_map(|signature| bind(signature, arguments)).collect();
    if let Some(exact) = exact_match(&possible, arguments, is_operator) {
        return Ok(possible.swap_remove(exact));
    }
    possible.retain(|candidate| {
        let mut pairs = arguments.iter().zip(&candidate.arguments);
        pairs.all(|(from, to)| can_convert(from, to, Conversion::Implicit))
    });
    if possible.is_empty() {
        return Err(Failure::None);
    }
    keep_best(&mut possible, |candidate| exact_count(candidate, arguments));
    keep_best(&mut possible, |candidate| preferred_count(candidate, arguments));
    if possible.len() > 1 {
        decide_unknowns(&mut possible, arguments);
    }
    if possible.len() > 1 {
        assume_like_known(&mut possible, arguments);
    }
    if possible.len() > 1 {
        // Several forms of one function that differ in nothing the caller could mean.
        possible.dedup_by(|a, b| a.arguments == b.arguments);
    }
    match possible.len() {
        1 => Ok(possible.swap_remove(0)),
        0 => Err(Failure::None),
        _ => Err(Failure::Ambiguous),
    }
}

/// The types that a signature's arguments have in a call, if their number fits.
fn bind<'s>(signature: &'s Signature, given: &[PgType]) -> Option<Resolved<'s>> {
    let fixed = signature.arguments.len();
    let fits = if signature.variadic { given.len() + 1 >= fixed } else { given.len() == fixed };
    if !fits {
        return None;
    }
    let wanted = |index: usize| signature.arguments.get(index).or(signature.arguments.last());
    let element = element_type(signature, given)?;
    let mut arguments = Vec::with_capacity(given.len());
    for (index, from) in given.iter().enumerate() {
        arguments.push(match wanted(index)? {
            SignatureType::Is(base) => base.clone(),
            SignatureType::Any if *from == PgType::Unknown => PgType::Text,
            SignatureType::Any => from.clone(),
            SignatureType::AnyNonArray if matches!(from, PgType::Array(_)) => return None,
            SignatureType::AnyElement | SignatureType::AnyNonArray => element.clone()?,
            SignatureType::AnyArray => array_of(element.clone()?),
            SignatureType::Record(_) => return None,
        });
    }
    let result = result_type(&signature.result, element.as_ref())?;
    Some(Resolved { signature, arguments, result })
}

/// Nothing if it depends on a type of elements that no argument gives.
fn result_type(result: &SignatureType, element: Option<&PgType>) -> Option<PgType> {
    Some(match result {
        SignatureType::Is(base) => base.clone(),
        SignatureType::AnyElement | SignatureType::AnyNonArray => element?.clone(),
        SignatureType::AnyArray => array_of(element?.clone()),
        SignatureType::Any => PgType::Text,
        SignatureType::Record(columns) => {
            let fields = columns.iter().map(|(name, data_type)| {
                result_type(data_type, element).map(|base| (name.clone(), base))
            });
            PgType::Record(fields.collect::<Option<_>>()?)
        }
    })
}

fn array_of(element: PgType) -> PgType {
    match element {
        PgType::Array(_) => element,
        element => PgType::Array(Box::new(element)),
    }
}

/// What `anyelement` and `anyarray` stand for in a call: None if the arguments
/// contradict each other, Some(None) if there is no such argument.
#[allow(clippy::option_option)]
fn element_type(signature: &Signature, given: &[PgType]) -> Option<Option<PgType>> {
    let mut element: Option<PgType> = None;
    let mut is_generic = false;
    for (index, from) in given.iter().enumerate() {
        let wanted = signature.arguments.get(index).or(signature.arguments.last())?;
        let bound = match (wanted, from) {
            (
                SignatureType::AnyElement | SignatureType::AnyNonArray | SignatureType::AnyArray,
                PgType::Unknown,
            ) => {
                is_generic = true;
                continue;
            }
            (SignatureType::AnyElement | SignatureType::AnyNonArray, from) => from.clone(),
            (SignatureType::AnyArray, PgType::Array(element)) => (**element).clone(),
            (SignatureType::AnyArray, _) => return None,
            _ => continue,
        };
        is_generic = true;
        match &element {
            None => element = Some(bound),
            Some(known) if *known == bound => {}
            Some(known) if can_convert(&bound, known, Conversion::Implicit) => {}
            Some(known) if can_convert(known, &bound, Conversion::Implicit) => {
                element = Some(bound);
            }
            Some(_) => return None,
        }
    }
    if is_generic && element.is_none() {
        element = Some(PgType::Text);
    }
    Some(element)
}

/// An operator of a known and an unknown type is first tried with the known one for
/// both.
fn exact_match(
    possible: &[Resolved<'_>],
    arguments: &[PgType],
    is_operator: bool,
) -> Option<usize> {
    let exact =
        |wanted: &[PgType]| possible.iter().position(|candidate| candidate.arguments == wanted);
    if let Some(found) = exact(arguments) {
        return Some(found);
    }
    match arguments {
        [PgType::Unknown, known] | [known, PgType::Unknown] if is_operator => {
            exact(&[known.clone(), known.clone()])
        }
        _ => None,
    }
}

fn keep_best(possible: &mut Vec<Resolved<'_>>, score: impl Fn(&Resolved<'_>) -> usize) {
    let best = possible.iter().map(&score).max().unwrap_or(0);
    possible.retain(|candidate| score(candidate) == best);
}

fn exact_count(candidate: &Resolved<'_>, arguments: &[PgType]) -> usize {
    // varchar and the like are text for this purpose.
    let base = |given: &PgType| match given {
        PgType::Varchar => PgType::Text,
        other => other.clone(),
    };
    let pairs = arguments.iter().zip(&candidate.arguments);
    pairs.filter(|(from, to)| **from != PgType::Unknown && base(from) == **to).count()
}

fn preferred_count(candidate: &Resolved<'_>, arguments: &[PgType]) -> usize {
    let pairs = arguments.iter().zip(&candidate.arguments);
    pairs
        .filter(|(from, to)| {
            **from != PgType::Unknown
                && (from == to || (is_preferred(to) && category(from) == category(to)))
        })
        .count()
}

/// Unknown arguments take the category that all candidates share, or text if any takes
/// it.
fn decide_unknowns(possible: &mut Vec<Resolved<'_>>, arguments: &[PgType]) {
    for (index, from) in arguments.iter().enumerate() {
        if *from != PgType::Unknown {
            continue;
        }
        let categories: Vec<Category> =
            possible.iter().map(|candidate| category(&candidate.arguments[index])).collect();
        let chosen = if categories.contains(&Category::Text) {
            Category::Text
        } else if categories.iter().all(|one| *one == categories[0]) {
            categories[0]
        } else {
            continue;
        };
        possible.retain(|candidate| category(&candidate.arguments[index]) == chosen);
        if possible.iter().any(|candidate| is_preferred(&candidate.arguments[index])) {
            possible.retain(|candidate| is_preferred(&candidate.arguments[index]));
        }
    }
}

/// If all known arguments have one type, the unknown ones are assumed to have it too.
fn assume_like_known(possible: &mut Vec<Resolved<'_>>, arguments: &[PgType]) {
    let mut known = arguments.iter().filter(|from| **from != PgType::Unknown);
    let Some(first) = known.next() else { return };
    if known.any(|other| other != first) || !arguments.contains(&PgType::Unknown) {
        return;
    }
    let fits = |candidate: &Resolved<'_>| {
        candidate.arguments.iter().all(|to| can_convert(first, to, Conversion::Implicit))
    };
    if possible.iter().filter(|candidate| fits(candidate)).count() == 1 {
        possible.retain(fits);
    }
}
