"""Statistics become a Recipe: what is done to the pixels before the first layer."""

from firstlight.recipe.audit import Audit as Audit
from firstlight.recipe.audit import audit as audit
from firstlight.recipe.augment import ColourShift as ColourShift
from firstlight.recipe.inputs import Input as Input
from firstlight.recipe.inputs import SuspiciousInput as SuspiciousInput
from firstlight.recipe.inverse import Inverse as Inverse
from firstlight.recipe.recipe import Recipe as Recipe
from firstlight.recipe.spectra import implied_std as implied_std
from firstlight.recipe.verdicts import Verdict as Verdict
