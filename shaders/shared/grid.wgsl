// The grids that ops::grid makes: workgroup number x + y * GRID_X.
// Gives: GRID_X.

const GRID_X: u32 = 32768u;
