// Sums and maxima over the lanes of a workgroup of up to 256.
// Gives: sum_of_lanes, max_of_lanes.

var<workgroup> lane_values: array<f32, 256>;

// The sum of one value of each lane, for every lane. `lanes`, a power of two, is the workgroup's size; all lanes call.
fn sum_of_lanes(value: f32, lane: u32, lanes: u32) -> f32 {
    workgroupBarrier();
    lane_values[lane] = value;
    workgroupBarrier();
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        if lane < half {
            lane_values[lane] += lane_values[lane + half];
        }
        workgroupBarrier();
    }
    return lane_values[0];
}

// As sum_of_lanes, the largest value.
fn max_of_lanes(value: f32, lane: u32, lanes: u32) -> f32 {
    workgroupBarrier();
    lane_values[lane] = value;
    workgroupBarrier();
    for (var half = lanes / 2u; half > 0u; half /= 2u) {
        if lane < half {
            lane_values[lane] = max(lane_values[lane], lane_values[lane + half]);
        }
        workgroupBarrier();
    }
    return lane_values[0];
}
