"""The lab's page: controls, and what follows from them. ``firstlight lab`` serves it; marimo reruns what depends."""

import marimo

app = marimo.App(width="medium", app_title="firstlight lab")


@app.cell
def imports():
    import marimo as mo

    from firstlight.errors import FirstlightError
    from firstlight.experiments import laboratory as lab
    from firstlight.report.html import chart_html, scoped_style

    return FirstlightError, chart_html, lab, mo, scoped_style


@app.cell
def heading(mo, scoped_style):
    mo.vstack(
        [
            mo.Html(scoped_style()),
            mo.md(
                "# firstlight lab\n\nA stack of linear layers on scikit-learn's digits. Choose how it starts and see "
                "the signal: **filled** is measured on a batch, **gray** is predicted before any weight is drawn."
            ),
        ]
    )
    return


@app.cell
def controls(lab, mo):
    depth = mo.ui.slider(1, 40, value=10, label="depth", show_value=True)
    width = mo.ui.dropdown(["32", "64", "128", "256", "512", "1024"], value="512", label="width")
    nonlinearity = mo.ui.dropdown(list(lab.NONLINEARITIES), value="tanh", label="nonlinearity")
    scheme = mo.ui.dropdown(list(lab.START), value="xavier", label="initialization")
    scale = mo.ui.text(value="1", label="times")
    batch_norm = mo.ui.checkbox(label="BatchNorm")
    residual = mo.ui.checkbox(label="residual")
    preprocessing = mo.ui.dropdown(list(lab.PREPROCESSING), value="resnet", label="preprocessing")
    seed = mo.ui.number(0, 999, value=0, label="seed")
    mo.vstack(
        [
            mo.hstack([depth, width, nonlinearity], justify="start", wrap=True),
            mo.hstack([scheme, scale, seed], justify="start", wrap=True),
            mo.hstack([batch_norm, residual, preprocessing], justify="start", wrap=True),
        ]
    )
    return batch_norm, depth, nonlinearity, preprocessing, residual, scale, scheme, seed, width


@app.cell
def chosen(
    FirstlightError, batch_norm, depth, lab, mo, nonlinearity, preprocessing, residual, scale, scheme, seed, width
):
    try:
        settings = lab.Settings(
            depth.value,
            int(width.value),
            nonlinearity.value,
            scheme.value,
            lab.parse_scale(scale.value),
            batch_norm.value,
            residual.value,
            preprocessing.value,
            int(seed.value),
        )
    except FirstlightError as error:
        settings = None
        mo.output.replace(mo.callout(str(error), kind="danger"))
    return (settings,)


@app.cell
def shown(chart_html, lab, mo, settings):
    mo.stop(settings is None)
    reading = lab.measure(settings)
    _last = reading.stds[-1]
    mo.vstack(
        [
            mo.md(f"Last layer: standard deviation predicted **{_last[0]:.3g}**, measured **{_last[1]:.3g}**."),
            mo.Html(chart_html(reading.depth)),
            mo.Html(chart_html(reading.activations)),
            mo.Html(chart_html(reading.gradients)),
        ]
    )
    return


@app.cell
def training(mo):
    rate = mo.ui.dropdown(["0.001", "0.003", "0.01", "0.03", "0.1", "0.3"], value="0.03", label="learning rate")
    go = mo.ui.run_button(label="Train 200 steps")
    mo.hstack([go, rate], justify="start")
    return go, rate


@app.cell
def learned(chart_html, go, lab, mo, rate, settings):
    mo.stop(settings is None or not go.value)
    with mo.status.spinner(title="Training"):
        _curve = lab.trained(settings, rate=float(rate.value))
    mo.Html(chart_html(lab.curve_plot(_curve)))
    return


if __name__ == "__main__":
    app.run()
