"""Search hyper-parameters on all cores with scikit-learn's own tools: each candidate trains in its own process."""

from pathlib import Path

from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmlp import data
from fmlp.estimators import MLPClassifier

if __name__ == "__main__":  # because the processes import this file
    x, y, x_test, y_test = data.load(Path(__file__).parents[1] / "data" / "digits.npz")
    mlp = MLPClassifier((64,), activation="elu", early_stopping=True, n_iter_no_change=5, random_state=0)
    model = make_pipeline(StandardScaler(), mlp)
    grid = {
        "mlpclassifier__dropout": [0.0, 0.3],
        "mlpclassifier__batch_norm": [False, True],
        "mlpclassifier__learning_rate_init": [1e-3, 5e-3],
    }
    # Two processes; joblib gives each its share of the cores, so that their BLAS threads do not compete.
    search = GridSearchCV(model, grid, cv=3, n_jobs=2).fit(x.astype("float32"), y)
    found = search.cv_results_
    for i in found["rank_test_score"].argsort()[:3]:
        settings = {name.removeprefix("mlpclassifier__"): value for name, value in found["params"][i].items()}
        print(f"{found['mean_test_score'][i]:.4f} {settings}")
    print(f"test accuracy of the best: {search.score(x_test.astype('float32'), y_test):.4f}")
