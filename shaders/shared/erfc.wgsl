// The complementary error function: Abramowitz and Stegun's 7.1.26 (absolute error 1.5e-7).
// Gives: erfc.

// 1 - erf(z) for z >= 0.
fn erfc(z: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * z);
    let polynomial = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return polynomial * exp(-z * z);
}
