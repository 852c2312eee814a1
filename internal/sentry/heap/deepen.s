#include "funcdata.h"
#include "textflag.h"

// func deepen()
TEXT ·deepen(SB), 0, $6291456-0
	NO_LOCAL_POINTERS
	RET
