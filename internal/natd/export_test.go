package natd

// Confine is for the test that looks for what is left.
var Confine = confine
