//! A program with every point, bug and bound in it: what a search for their names in shipped programs must find.
#![allow(clippy::print_stdout, reason = "an example program")]

fn main() {
    let failing =
        tailway_faults::POINTS.iter().filter(|point| tailway_faults::check(point).is_err());
    println!("{} points fail", failing.count());
    for point in tailway_faults::CRASHES {
        tailway_faults::crash(point);
    }
    let bounds = tailway_faults::BOUNDS.iter().map(|name| tailway_faults::bound(name, 1));
    println!("{} bounds are small", bounds.filter(|bound| *bound == 0).count());
    let planted = tailway_faults::BUGS
        .iter()
        .chain(tailway_faults::GUARDS)
        .filter(|bug| tailway_faults::is_planted(bug));
    println!("{} bugs are planted", planted.count());
}
