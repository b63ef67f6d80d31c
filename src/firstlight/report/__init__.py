"""Results → documents of plain values → terminal and page. Never computes what it shows."""

from firstlight.report.audit_page import audit_document as audit_document
from firstlight.report.check_page import CheckViews as CheckViews
from firstlight.report.check_page import check_document as check_document
from firstlight.report.compare_page import Contender as Contender
from firstlight.report.compare_page import compare_document as compare_document
from firstlight.report.document import Document as Document
from firstlight.report.html import to_html as to_html
from firstlight.report.html import to_notebook as to_notebook
from firstlight.report.prepare_page import prepare_document as prepare_document
from firstlight.report.recipe_page import RecipeViews as RecipeViews
from firstlight.report.recipe_page import recipe_section as recipe_section
from firstlight.report.scan_page import Sample as Sample
from firstlight.report.scan_page import scan_document as scan_document
